"""deploy/kubernetes/: it can be built, its configuration can be loaded, and it asks for no more than it needs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from reconciler.config.settings import Settings
from tests.docs.documents import ROOT
from tests.support.kubernetes_folder import BASE, COMPONENTS, build

_CHANGES = {"create", "patch", "update", "delete", "deletecollection"}


def documents(folder: Path) -> Iterator[dict[str, Any]]:
    for path in folder.rglob("*.yaml"):
        yield from (each for each in yaml.safe_load_all(path.read_text()) if each and "kind" in each)


def rules() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every rule, with its role."""
    for one in documents(BASE):
        if one["kind"] in ("Role", "ClusterRole"):
            yield from ((one["metadata"]["name"], rule) for rule in one.get("rules", ()))


def test_configuration_of_the_base_is_valid() -> None:
    settings = Settings.load(BASE / "config.yaml")
    assert [one.kind for one in settings.targets] == ["kubernetes"]


def test_rules_name_their_kinds_and_verbs() -> None:
    for role, rule in rules():
        assert set(rule) == {"apiGroups", "resources", "verbs"}, role
        assert "*" not in [word for words in rule.values() for word in words], role


def test_rules_that_read_change_nothing() -> None:
    found = [(role, rule) for role, rule in rules() if role.startswith("reconciler-read")]
    assert found
    assert [role for role, rule in found if _CHANGES & set(rule["verbs"])] == []


def test_base_reads_no_secret_outside_its_own_namespace() -> None:
    naming = {role for role, rule in rules() if "secrets" in rule["resources"]}
    assert naming == {"reconciler", "reconciler-read-secrets", "reconciler-write-secrets"}
    (own,) = [one for one in documents(BASE) if one["kind"] == "Role"]
    assert own["metadata"]["namespace"] == "reconciler"


def test_container_has_no_rights_that_it_does_not_need() -> None:
    (deployment,) = [one for one in documents(BASE) if one["kind"] == "Deployment"]
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_each_component_is_explained_in_the_guide() -> None:
    text = (ROOT / "deploy" / "KUBERNETES.md").read_text()
    assert [name for name in COMPONENTS if f"`{name}`" not in text] == []


@pytest.mark.parametrize("component", ["", *COMPONENTS])
def test_base_can_be_built_with_each_component(component: str, tmp_path: Path) -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("there is no kubectl, which builds kustomizations")
    assert "Deployment" in {one["kind"] for one in build(kubectl, tmp_path, [component] if component else [])}
