"""Today's config against what is on record: nothing is started twice, and nothing is forgotten."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reconciler.config.settings import Settings
from reconciler.errors import SettingsError, Terminal
from reconciler.host.gpus.usage import without
from reconciler.host.inventory import Inventory, TargetLock
from reconciler.loop.wiring import make_cluster_place, make_history
from reconciler.model import Capacity, Gpu, Origin, Owned, ServiceId
from reconciler.state.folder import copy_state
from reconciler.state.suspension import Suspension
from reconciler.state.target_registry import FILE, TargetRegistry
from reconciler.web.metrics import Metrics
from tests.support.world import record

KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: a
clusters: [{name: a, cluster: {server: "https://127.0.0.1:1"}}]
users: [{name: a, user: {token: none}}]
contexts: [{name: a, context: {cluster: a, user: a}}]
"""


def target(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "paths": ["runtimes", f"hosts/{name}"], "gpus": []} | more


def settings(folder: Path, *targets: dict[str, Any]) -> Settings:
    data = {"source": {"url": "/m"}, "targets": targets, "state_dir": str(folder)}
    return Settings.model_validate(data)


def serve(folder: Path, name: str) -> None:
    """One replica of this target is on record."""
    inventory = Inventory(folder / name)
    inventory.write(replace(record(port=20001), origin=Origin(f"hosts/{name}/chat.yaml", 3)))
    inventory.remember_service(Owned(ServiceId("default", "chat"), Origin(f"hosts/{name}/chat.yaml", 3)))


@pytest.fixture
def registry(tmp_path: Path) -> TargetRegistry:
    """Target `a` was driven from here, and one replica of it is on record."""
    found = TargetRegistry(tmp_path)
    found.remember(settings(tmp_path, target("a")))
    serve(tmp_path, "a")
    return found


def test_renamed_target_with_replicas_is_refused_with_what_to_run(registry: TargetRegistry, tmp_path: Path):
    with pytest.raises(SettingsError, match="reconciler target rename a b") as error:
        registry.check(settings(tmp_path, target("b", paths=["runtimes", "hosts/a"])))
    assert "default/chat" in str(error.value)


def test_list_of_a_newer_daemon_is_read(registry: TargetRegistry, tmp_path: Path):
    path = tmp_path / FILE
    found = json.loads(path.read_text())
    found["targets"][0]["since"] = 7
    path.write_text(json.dumps(found))
    assert [one.name for one in TargetRegistry(tmp_path).known()] == ["a"]


def test_renamed_target_of_an_older_daemon_is_refused_by_its_files(tmp_path: Path):
    serve(tmp_path, "a")
    with pytest.raises(SettingsError, match="reconciler target rename a b"):
        TargetRegistry(tmp_path).check(settings(tmp_path, target("b", paths=["runtimes", "hosts/a"])))


def test_targets_that_swap_names_are_refused(tmp_path: Path):
    registry = TargetRegistry(tmp_path)
    registry.remember(settings(tmp_path, target("a"), target("b", routing={"listen": "127.0.0.1:1"})))
    serve(tmp_path, "a")
    serve(tmp_path, "b")
    swapped = [target("a", paths=["hosts/b"]), target("b", paths=["hosts/a"], routing={"listen": "127.0.0.1:1"})]
    with pytest.raises(SettingsError, match="started a second time"):
        registry.check(settings(tmp_path, *swapped))


def test_renamed_target_without_replicas_is_just_another_one(tmp_path: Path):
    registry = TargetRegistry(tmp_path)
    registry.remember(settings(tmp_path, target("a")))
    assert registry.check(settings(tmp_path, target("b", paths=["hosts/a"]))) == ()


def test_target_keeps_its_folder_when_it_is_renamed(registry: TargetRegistry, tmp_path: Path):
    assert registry.rename("a", "b")
    renamed = settings(tmp_path, target("b", paths=["hosts/a"]))
    assert registry.check(renamed) == ()
    assert registry.folder_of("b") == tmp_path / "a"
    registry.remember(renamed)
    assert registry.folder_of("b") == tmp_path / "a"


def test_renamed_cluster_is_suspended_still_and_keeps_what_was_applied(tmp_path: Path):
    (kubeconfig := tmp_path / "kubeconfig").write_text(KUBECONFIG)
    cluster = {"name": "a", "kind": "kubernetes", "paths": ["a"], "kubeconfig": str(kubeconfig)}
    registry, renamed = TargetRegistry(tmp_path), settings(tmp_path, cluster | {"name": "b"})
    registry.remember(settings(tmp_path, cluster))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "applied.json").write_text("{}")
    Suspension(tmp_path / "a" / "suspended.json").add("default/chat")
    assert registry.rename("a", "b")
    with closing(make_history(renamed)) as history:
        place = make_cluster_place(renamed.clusters[0], renamed, history, Metrics())
    assert place.suspension.names() == {"default/chat"}
    (scratch := tmp_path / "scratch").mkdir()
    copy_state(renamed, scratch)
    assert (scratch / "a" / "applied.json").is_file()


def test_rename_twice_and_back_is_harmless(registry: TargetRegistry, tmp_path: Path):
    assert registry.rename("a", "b")
    assert not registry.rename("a", "b")
    assert registry.rename("b", "a")
    assert registry.check(settings(tmp_path, target("a"))) == ()
    assert registry.folder_of("a") == tmp_path / "a"


def test_rename_while_a_daemon_drives_the_target_is_refused(registry: TargetRegistry, tmp_path: Path):
    lock = TargetLock(tmp_path / "a")
    lock.acquire()
    with pytest.raises(Terminal, match="Stop the daemon"):
        registry.rename("a", "b")
    lock.release()


def test_rename_onto_a_target_with_replicas_is_refused(registry: TargetRegistry, tmp_path: Path):
    serve(tmp_path, "b")
    with pytest.raises(Terminal, match="b has replicas of its own"):
        registry.rename("a", "b")


def test_rename_of_an_unknown_target_names_those_there_are(registry: TargetRegistry):
    with pytest.raises(Terminal, match="there are: a"):
        registry.rename("x", "b")


def test_new_target_does_not_get_the_folder_of_a_renamed_one(registry: TargetRegistry, tmp_path: Path):
    registry.rename("a", "b")
    both = settings(tmp_path, target("b"), target("a", routing={"listen": "127.0.0.1:1"}))
    with pytest.raises(SettingsError, match=r"belongs to the target b.*; choose another name for the new target$"):
        registry.check(both)


def test_target_renamed_back_in_the_config_alone_is_told_what_to_run(registry: TargetRegistry, tmp_path: Path):
    registry.rename("a", "b")
    with pytest.raises(SettingsError, match="`reconciler target rename b a`"):
        registry.check(settings(tmp_path, target("a")))


def test_removed_target_is_left_over_until_nothing_of_it_is_on_record(registry: TargetRegistry, tmp_path: Path):
    other = settings(tmp_path, target("c", routing={"listen": "127.0.0.1:1"}))
    (left,) = registry.check(other)
    assert (left.target.name, left.replicas, left.services) == ("a", 1, (ServiceId("default", "chat"),))
    registry.remember(other)
    assert registry.leftovers(other) == (left,)
    inventory = Inventory(tmp_path / "a")
    inventory.forget_replica(record().id)
    inventory.forget_service(ServiceId("default", "chat"))
    registry.remember(other)
    assert registry.leftovers(other) == ()
    assert [one.name for one in registry.known() if one.settings] == ["c"]


def test_kind_that_changes_while_replicas_run_is_refused(registry: TargetRegistry, tmp_path: Path):
    with pytest.raises(SettingsError, match="kind was process and is systemd now"):
        registry.check(settings(tmp_path, target("a", kind="systemd")))


def test_default_namespace_that_moves_what_serves_is_refused(registry: TargetRegistry, tmp_path: Path):
    with pytest.raises(SettingsError, match="default_namespace was default and is ml now"):
        registry.check(settings(tmp_path, target("a", default_namespace="ml")))


def test_nothing_is_written_by_a_check(tmp_path: Path):
    serve(tmp_path, "a")
    before = sorted(tmp_path.rglob("*"))
    TargetRegistry(tmp_path).check(settings(tmp_path, target("a")))
    assert sorted(tmp_path.rglob("*")) == before


def test_no_variable_of_the_config_is_kept(tmp_path: Path):
    engine = {"image": "*", "python": "/p", "env": {"HF_TOKEN": "hf_secret"}}
    TargetRegistry(tmp_path).remember(settings(tmp_path, target("a", engines=[engine])))
    assert "hf_secret" not in (tmp_path / "targets.json").read_text()


def test_gpu_of_a_removed_target_takes_no_newcomer():
    capacity = Capacity(1000, 1 << 30, (Gpu("GPU-1"), Gpu("GPU-2")))
    found = without(capacity, {"GPU-1": "a has it still", "GPU-9": "another host's"})
    assert {uuid: use.fault for uuid, use in found.gpu_use.items()} == {"GPU-1": "a has it still"}
