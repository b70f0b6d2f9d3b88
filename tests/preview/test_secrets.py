"""`render` and `validate` on Secrets: a warning for a cluster, a refusal for a host, and never a value."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from reconciler.config.settings import HostSettings, Secrets
from reconciler.manifests import Manifests, read_manifests
from reconciler.preview.on_cluster import Document, render, validate
from reconciler.preview.on_host import render_on, validate_on
from tests.desired.test_desired import TARGET, snapshot, with_model
from tests.support.secret_files import age_key, encrypt

VALUE = "hf_tested"
SECRET = f"apiVersion: v1\nkind: Secret\nmetadata: {{name: hub}}\nstringData:\n  token: {VALUE}\n"
CHAT = with_model("env:", "- {name: HF_TOKEN, valueFrom: {secretKeyRef: {name: hub, key: token}}}")


def tree(secret: str = SECRET) -> Manifests:
    return read_manifests(snapshot({"hosts/box/chat.yaml": CHAT, "hosts/box/hub.yaml": secret}))


def host(**settings: Any) -> HostSettings:
    return TARGET.model_copy(update={"secrets": Secrets(**settings)})


def about(findings: list[Document], word: str) -> list[str]:
    assert VALUE not in json.dumps(findings)
    return [f"{each['file']}:{each['line']}" for each in findings if word in each["message"]]


def service(document: Document) -> Document:
    assert VALUE not in json.dumps(document)
    (found,) = document["services"]
    return dict(found)


def test_without_a_target_plain_data_is_a_warning():
    verdict = validate(tree())
    assert verdict["valid"]
    assert about(verdict["warnings"], "the data of Secret hub is not encrypted") == ["hosts/box/hub.yaml:4"]
    assert service(render(tree()))["errors"] == []


def test_for_host_plain_data_is_error_and_so_is_service_that_needs_it():
    verdict = validate_on(tree(), host())
    assert about(verdict["errors"], "is in git unencrypted") == ["hosts/box/chat.yaml:15", "hosts/box/hub.yaml:4"]
    assert about(verdict["warnings"], "not encrypted") == []
    document = render_on(tree(), host(), Path("/nowhere"))
    assert about(document["errors"], "is in git unencrypted") == ["hosts/box/hub.yaml:4"]
    assert [each["reason"] for each in service(document)["host"]["blocked"]] == ["SecretNotFound"]


def test_host_that_allows_it_takes_plain_data():
    assert validate_on(tree(), host(allow_plaintext=True))["valid"]


def test_variable_says_where_it_comes_from():
    document = render_on(tree(), host(allow_plaintext=True), Path("/nowhere"))
    assert service(document)["host"]["env"]["HF_TOKEN"] == "<secret hub/token>"


def test_sops_document_is_accepted_for_clusters_and_opens_on_the_host(tmp_path: Path):
    recipient = age_key(tmp_path / "age.key")
    manifests = tree(encrypt(SECRET, recipient))
    assert validate(manifests) == {"valid": True, "errors": [], "warnings": [], "notChecked": []}
    assert validate_on(manifests, host(age_key_file=tmp_path / "age.key"))["valid"]
    assert about(validate_on(manifests, host())["errors"], "names no age identity")


@pytest.mark.parametrize("setting", ["directory", "age_key_file"])
def test_far_from_the_host_what_cannot_be_read_is_a_warning_only(tmp_path: Path, setting: str):
    text = encrypt(SECRET, age_key(tmp_path / "age.key")) if setting == "age_key_file" else "# nothing\n"
    target = host(**{setting: tmp_path / "only-on-the-host"})
    verdict = validate_on(tree(text), target)
    assert (verdict["valid"], verdict["errors"]) == (True, [])
    assert about(verdict["warnings"], "only-on-the-host")
    assert "hosts/box/chat.yaml:15" in about(verdict["warnings"], "variable HF_TOKEN")
    found = service(render_on(tree(text), target, Path("/nowhere")))
    assert found["host"]["blocked"] == []
    assert "SecretsUnreadable" in [each["reason"] for each in found["warnings"]]


def test_folder_of_the_host_is_looked_at_where_it_is(tmp_path: Path):
    (tmp_path / "hub.yaml").write_text(SECRET)
    (tmp_path / "hub.yaml").chmod(0o600)
    assert validate_on(tree("# nothing\n"), host(directory=tmp_path))["valid"]


def test_render_warns_beside_its_document(tmp_path: Path):
    path = tmp_path / "hub.yaml"
    path.write_text(SECRET)
    command = [sys.executable, "-m", "reconciler", "render", str(path), "-o", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"services": [], "errors": []}
    assert done.stderr.startswith(f"warning: {path}:4: the data of Secret hub is not encrypted")
    assert VALUE not in done.stderr
