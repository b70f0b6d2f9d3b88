"""kubectl's own strategic merge is the oracle for ours."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reconciler.kserve.merge import patch_container
from tests.support.examples import examples

_NAMES = st.sampled_from(["a", "b", "c", "d"])
_ENV = st.lists(
    st.builds(lambda name, value: {"name": name, "value": value}, _NAMES, _NAMES),
    max_size=4,
    unique_by=lambda e: e["name"],
)
_MOUNTS = st.lists(
    st.builds(lambda name, path: {"name": name, "mountPath": f"/{path}"}, _NAMES, _NAMES),
    max_size=4,
    unique_by=lambda e: e["mountPath"],
)
_PORTS = st.lists(
    st.builds(lambda n, name: {"containerPort": n, "name": name}, st.integers(1, 4), _NAMES),
    max_size=4,
    unique_by=lambda e: e["containerPort"],
)
_CONTAINERS = st.fixed_dictionaries(
    {},
    optional={
        "env": _ENV,
        "volumeMounts": _MOUNTS,
        "ports": _PORTS,
        "command": st.lists(_NAMES, max_size=2),
        "resources": st.fixed_dictionaries({"limits": st.dictionaries(_NAMES, st.just("1"), max_size=3)}),
        "envFrom": st.lists(st.just({"configMapRef": {"name": "x"}}), max_size=1),
    },
)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
@settings(max_examples=examples(25), deadline=None, suppress_health_check=list(HealthCheck))
@given(_CONTAINERS, _CONTAINERS)
def test_containers_merge_as_kubectl_merges_them(
    tmp_path_factory: pytest.TempPathFactory, base: dict[str, Any], overlay: dict[str, Any]
) -> None:
    folder = tmp_path_factory.mktemp("patch")
    base, overlay = _filled(base), _filled(overlay)
    theirs = _kubectl(folder, {"name": "x", "image": "i", **base}, {"name": "x", **overlay})
    ours = patch_container({"name": "x", "image": "i", **base}, {"name": "x", **overlay})
    for key in ("env", "volumeMounts", "ports", "command", "envFrom", "resources"):
        assert ours.get(key) == (theirs.get(key) or None), key


def _filled(container: dict[str, Any]) -> dict[str, Any]:
    """Without empty parts: a document that was read has none."""
    return {k: v for k, v in container.items() if v and v != {"limits": {}}}


def _kubectl(folder: Path, base: dict[str, Any], overlay: dict[str, Any]) -> dict[str, Any]:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [base]}}
    (folder / "pod.json").write_text(json.dumps(pod))
    patch = json.dumps({"spec": {"containers": [overlay]}})
    command = ["kubectl", "patch", "--local", "-f", "pod.json", "--type", "strategic", "-p", patch, "-o", "json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    container: dict[str, Any] = json.loads(done.stdout)["spec"]["containers"][0]
    if container.get("resources") == {}:
        del container["resources"]
    return container
