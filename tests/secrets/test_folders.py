"""Secrets of one tenant that another one, who may push to a folder of its own, tries to use."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from reconciler.config.settings import HostSettings, Secrets
from reconciler.desired import build_desired
from reconciler.manifests import Manifests, read_manifests
from reconciler.model import Desired, DesiredState, File, Snapshot
from reconciler.preview.on_host import validate_on
from reconciler.secrets import SecretSources
from tests.desired.test_desired import RUNTIME, TARGET, snapshot, with_model
from tests.support.secret_files import age_key, encrypt

VALUE = "hf_tested"
SECRET = "apiVersion: v1\nkind: Secret\nmetadata: {name: hub, namespace: alice}\nstringData:\n  token: " + VALUE + "\n"
RULE = "encrypted_regex: ^(data|stringData)$"
ALICE, BOB = "hosts/box/alice", "hosts/box/bob"
USES_IT = "{name: HF_TOKEN, valueFrom: {secretKeyRef: {name: hub, key: token%s}}}"


def user(namespace: str, more: str = "") -> str:
    service = with_model("env:", f"- {USES_IT % more}")
    return re.sub(r"(?m)^( *)name: (\w+)$", rf"\1name: \2\n\1namespace: {namespace}", service, count=1)


@dataclass(frozen=True)
class Tenants:
    """A host of two tenants, alice and bob, each with a folder; `keys` opens what is encrypted."""

    target: HostSettings
    sealed: str

    def desired(self, **files: str) -> DesiredState:
        """`files` stand in the folders of both: alice_x is x.yaml in that of alice."""
        found = {f"hosts/box/{name.replace('_', '/')}.yaml": text for name, text in files.items()}
        runtime = RUNTIME.replace("kind: ServingRuntime", "kind: ClusterServingRuntime")
        revision = snapshot(found | {"runtimes/vllm.yaml": runtime})
        manifests: Manifests = read_manifests(revision)
        store = SecretSources(self.target, {}).load(manifests)
        state = build_desired(manifests, self.target, revision, secrets=store)
        assert VALUE not in repr(state)
        return state

    def service(self, **files: str) -> Desired:
        (found,) = self.desired(**files).services
        return found


Make = Callable[..., Tenants]


@pytest.fixture
def tenants(tmp_path: Path) -> Make:
    def make(*, own_keys: bool = False, rule: str = RULE, text: str = SECRET) -> Tenants:
        shared, alices, bobs = (tmp_path / name for name in ("shared", "alice", "bob"))
        recipients = {path: age_key(path) for path in (shared, alices, bobs)}
        folders = [{"path": ALICE, "namespaces": ["alice"]}, {"path": BOB, "namespaces": ["bob"]}]
        if own_keys:
            folders = [each | {"age_key_file": key} for each, key in zip(folders, (alices, bobs), strict=True)]
        secrets = Secrets.model_validate({"age_key_file": shared, "folders": folders})
        target = TARGET.model_copy(update={"secrets": secrets})
        return Tenants(target, encrypt(text, recipients[alices if own_keys else shared], rule=rule))

    return make


@pytest.mark.parametrize("own_keys", [False, True])
def test_owner_of_a_folder_uses_its_own_secret(tenants: Make, own_keys: bool) -> None:
    made = tenants(own_keys=own_keys)
    state = made.desired(alice_chat=user("alice"), alice_hub=made.sealed)
    assert state.refused == ()
    assert [each.blocked for each in state.services] == [()]


@pytest.mark.parametrize("become", ["folder", "pipe", "nothing"])
def test_key_of_a_folder_that_is_no_file_refuses_its_secrets(tenants: Make, become: str) -> None:
    made = tenants(own_keys=True)
    key = made.target.secrets.folders[0].age_key_file
    assert key
    key.unlink()
    if become == "folder":
        key.mkdir(mode=0o700)
    elif become == "pipe":
        os.mkfifo(key, 0o600)
    before = len(os.listdir("/proc/self/fd"))
    service = made.service(alice_chat=user("alice"), alice_hub=made.sealed)
    assert len(os.listdir("/proc/self/fd")) == before
    (blocked,) = service.blocked
    assert "no age identity" in blocked.message
    assert str(key) in blocked.message


def test_copied_secret_under_its_own_name_is_refused(tenants: Make) -> None:
    made = tenants()
    state = made.desired(bob_chat=user("bob"), bob_hub=made.sealed)
    (refused,) = state.refused
    assert refused.code == "SecretNotAllowed"
    assert f"may be only in {ALICE}, according to targets[].secrets.folders of box" in refused.message
    assert str(refused.origin) == f"{BOB}/hub.yaml:3"
    assert [each.code for each in state.services[0].blocked] == ["SecretNotFound"]


def test_copied_secret_does_not_hide_the_one_that_counts(tenants: Make) -> None:
    made = tenants()
    state = made.desired(alice_chat=user("alice"), alice_hub=made.sealed, aaa_hub="" + made.sealed, bob_hub=made.sealed)
    assert [each.code for each in state.refused] == ["SecretNotAllowed"] * 2
    assert [each.blocked for each in state.services] == [()]


def test_renamed_copy_breaks_the_checksum(tenants: Make) -> None:
    made = tenants()
    renamed = made.sealed.replace("namespace: alice", "namespace: bob")
    service = made.service(bob_chat=user("bob"), bob_hub=renamed)
    assert "does not match its checksum" in str(service.blocked[0])


def test_renamed_copy_whose_name_no_checksum_covers_is_refused(tenants: Make) -> None:
    made = tenants(rule=f"{RULE}, mac_only_encrypted: true")
    renamed = made.sealed.replace("namespace: alice", "namespace: bob")
    state = made.desired(bob_chat=user("bob"), bob_hub=renamed)
    assert "its checksum does not cover its name and namespace (mac_only_encrypted)" in str(state.refused[0])
    assert state.services[0].blocked


@pytest.mark.parametrize("rule", [RULE, f"{RULE}, mac_only_encrypted: true"])
def test_key_of_a_folder_opens_no_copy_elsewhere(tenants: Make, rule: str) -> None:
    # The checksum goes over values in a row: what begins one may end the one before.
    made = tenants(own_keys=True, rule=rule, text=SECRET.replace("name: hub", "name: hubbob"))
    renamed = made.sealed.replace("name: hubbob", "name: hub").replace(
        "namespace: alice", "namespace: bob\n    labels: {rest: alice}"
    )
    assert renamed.count("bob") == 1
    state = made.desired(bob_chat=user("bob"), bob_hub=renamed)
    assert "opens none of these" in str(state.refused[0])
    assert state.services[0].blocked


@pytest.mark.parametrize("more", ["", ", optional: true"])
def test_service_in_another_folder_gets_no_secret_of_a_namespace(tenants: Make, more: str) -> None:
    made = tenants()
    service = made.service(alice_hub=made.sealed, bob_chat=user("alice", more))
    (blocked,) = service.blocked
    assert blocked.code == "SecretNotAllowed"
    assert f"which only documents in {ALICE} may use (targets[].secrets.folders of box)" in blocked.message
    assert f"InferenceService chat is at {BOB}/chat.yaml:" in blocked.message


def test_runtime_of_a_namespace_in_another_folder_is_not_there(tenants: Make) -> None:
    made = tenants()
    runtime = re.sub(r"(?m)^( *)name: vllm$", r"\1name: mine\n\1namespace: alice", RUNTIME)
    service = user("alice").replace("runtime: vllm", "runtime: mine")
    assert made.service(alice_chat=service, alice_hub=made.sealed, alice_mine=runtime).blocked == ()
    state = made.desired(alice_chat=service, alice_hub=made.sealed, bob_mine=runtime)
    assert [each.code for each in state.services[0].problems] == ["RuntimeNotRecognized"]
    (refused,) = state.refused
    assert (refused.code, str(refused.origin)) == ("DocumentNotAllowed", f"{BOB}/mine.yaml:1")
    # What Alice says counts, wherever Bob's folder is in the order of names.
    shadowed = made.desired(alice_chat=user("alice"), alice_hub=made.sealed, bob_vllm=runtime.replace("mine", "vllm"))
    assert shadowed.services == made.desired(alice_chat=user("alice"), alice_hub=made.sealed).services


def test_config_map_of_a_namespace_in_another_folder_is_not_there(tenants: Make) -> None:
    made = tenants()
    service = user("alice") + "      envFrom: [{configMapRef: {name: hub, optional: true}}]\n"
    settings = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: hub, namespace: alice}\ndata: {HF_ENDPOINT: %s}\n"
    account = (
        "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: default, namespace: alice}\nsecrets: [{name: x}]\n"
    )
    alone = made.desired(alice_chat=service, alice_hub=made.sealed, alice_env=settings % "https://mine")
    assert "https://mine" in repr(alone.services)
    attacked = made.desired(
        alice_chat=service,
        alice_hub=made.sealed,
        alice_env=settings % "https://mine",
        bob_env=settings % "https://bobs",
        bob_account=account,
    )
    assert attacked.services == alone.services
    assert {each.code for each in attacked.refused} == {"DocumentNotAllowed"}
    assert "https://bobs" not in repr(made.service(alice_chat=service, bob_env=settings % "https://bobs"))


def test_second_copy_of_a_service_in_another_folder_hides_nothing(tenants: Make) -> None:
    made = tenants()
    alone = made.desired(alice_chat=user("alice"), alice_hub=made.sealed)
    state = made.desired(alice_chat=user("alice"), alice_hub=made.sealed, bob_chat=user("alice"))
    assert state.services == alone.services
    assert [each.code for each in state.refused] == ["DocumentNotAllowed"]


def test_deepest_folder_counts() -> None:
    folders = [{"path": "hosts/box", "namespaces": ["team"]}, {"path": BOB, "namespaces": ["bob"]}]
    secrets = Secrets.model_validate({"folders": folders})
    found = [secrets.folder_of(file) for file in (f"{BOB}/x.yaml", "hosts/box/x.yaml", "hosts/other/x.yaml")]
    assert [each and each.namespaces for each in found] == [("bob",), ("team",), None]


@pytest.mark.parametrize("root", ["", "/tmp/checkout/", "../"])
def test_validate_judges_folders_from_the_repositorys_root_alone(tenants: Make, root: str) -> None:
    made = tenants()
    files = {f"{root}{ALICE}/hub.yaml": made.sealed, f"{root}{ALICE}/chat.yaml": user("alice")}
    manifests = read_manifests(Snapshot("r1", tuple(File(path, path, text.encode()) for path, text in files.items())))
    said = [each["message"] for each in validate_on(manifests, made.target)["errors"]]
    assert not any("targets[].secrets.folders" in each for each in said)
    stolen = {f"{root}{BOB}/hub.yaml": made.sealed}
    manifests = read_manifests(Snapshot("r1", tuple(File(path, path, text.encode()) for path, text in stolen.items())))
    said = [each["message"] for each in validate_on(manifests, made.target)["errors"]]
    assert any("targets[].secrets.folders" in each for each in said) == (root == "")
