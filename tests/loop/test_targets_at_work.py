"""A daemon whose targets are renamed, removed and put back, with real replicas and a real proxy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.report.history import History
from tests.e2e.rig import free_range
from tests.support.light_rig import LightRig
from tests.support.ports import free_port

pytestmark = pytest.mark.slow


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[LightRig]:
    rig = LightRig(tmp_path)
    rig.start()
    rig.settle()
    yield rig
    rig.close()


def rename(rig: LightRig, name: str) -> None:
    rig.configure(name=name)
    rig.target["name"] = name


def test_renamed_target_is_refused_on_reload_and_taken_over_by_command(rig: LightRig):
    pids, proxy = rig.pids(), (rig.state / "proxy" / "process.json").read_text()
    rename(rig, "gpu-1")
    with rig.requests() as codes:
        rig.reload()
        assert "reconciler target rename demo gpu-1" in rig.words()
        refusal = rig.status()["daemon"]["configFault"]  # type: ignore[index]
        assert "reconciler target rename demo gpu-1" in refusal
        assert rig.status()["targets"][0]["name"] == "demo"  # type: ignore[index]
        assert "systemctl stop" in rig.ask("target", "rename", "demo", "gpu-1", expect=2).stderr
        rig.kill(15)
        rig.ask("target", "rename", "demo", "gpu-1")
        rig.ask("target", "rename", "demo", "gpu-1")
        rig.start()
        rig.settle()
    assert rig.status()["targets"][0]["name"] == "gpu-1"  # type: ignore[index]
    assert {*codes} == {200}
    state = rig.state_dir / "demo"
    assert (state / "proxy" / "process.json").read_text() == proxy
    rig.target["name"] = "demo"
    assert rig.pids() == pids
    assert {entry["target"] for entry in rig.history()} - {""} == {"gpu-1"}, "the config is of no target"
    assert [entry["message"] for entry in rig.history() if entry["event"] == "target_renamed"] == [
        "was called demo before"
    ]


def test_renamed_target_rolls_out_like_any_other(rig: LightRig):
    (before,) = rig.pids()
    rig.kill(15)
    rename(rig, "gpu-1")
    rig.ask("target", "rename", "demo", "gpu-1")
    rig.start()
    rig.settle()
    with rig.requests() as codes:
        rig.write({"demo/tiny.yaml": rig.read("demo/tiny.yaml").replace("memory: 16Mi", "memory: 17Mi")})
        rig.settle()
    assert {*codes} == {200}
    rig.target["name"] = "demo"
    assert before not in rig.pids()


def test_daemon_that_starts_with_a_renamed_target_refuses(rig: LightRig):
    rig.kill(15)
    rename(rig, "gpu-1")
    assert "reconciler target rename demo gpu-1" in rig.ask("run", expect=2).stderr
    assert "reconciler target rename demo gpu-1" in rig.ask("plan", expect=2).stderr
    assert "reconciler target rename demo gpu-1" in rig.ask("host", "doctor", expect=None).stdout


def test_rename_takes_quarantine_along_also_when_it_was_killed_in_between(rig: LightRig):
    rig.kill(15)
    rename(rig, "gpu-1")
    rig.ask("target", "rename", "demo", "gpu-1")
    history = History(rig.state_dir / "state.db")
    history.rename("gpu-1", "demo")
    history.close()
    rig.start()
    rig.settle()
    assert {entry["target"] for entry in rig.history()} - {""} == {"gpu-1"}, "the config is of no target"


def test_removed_target_is_drained_and_its_proxy_ends(rig: LightRig, tmp_path: Path):
    first, listen = free_range(100), f"127.0.0.1:{free_port()}"
    host, tiny = rig.read("demo/host.yaml"), rig.read("demo/tiny.yaml")
    files: dict[str, str | None] = {"second/host.yaml": host.replace("demo", "second")}
    rig.write(files | {"second/bee.yaml": tiny.replace("name: tiny", "name: bee", 1)})
    (demo,) = rig.targets()
    ports = {"ports": f"{first + 50}-{first + 60}", "routing": {"listen": listen}}
    second = demo | {"name": "second", "paths": ["runtimes", "second"]} | ports
    rig.write_targets([demo, second])
    rig.reload()
    rig.settle()
    folder = rig.state_dir / "second"
    rig.wait("bee to serve", lambda: len(rig.status()["targets"][1]["services"]) == 1)  # type: ignore[index]
    rig.wait("bee to be ready", lambda: rig.status()["targets"][1]["services"][0]["ready"] == "1/1")  # type: ignore[index]
    pids = rig.pids()
    rig.write_targets([demo])
    with rig.requests() as codes:
        rig.reload()
        rig.wait("nothing to be left of it", lambda: not rig.status()["leftovers"])  # type: ignore[index]
        rig.wait("its target to be gone", lambda: len(rig.status()["targets"]) == 1)  # type: ignore[index]
        rig.settle()
    assert {*codes} == {200}
    assert rig.pids() == pids
    assert not list((folder / "replicas").iterdir())
    assert not (folder / "proxy" / "process.json").exists()
    assert '"second"' not in (rig.state_dir / "targets.json").read_text()
    said = [entry["message"] for entry in rig.history() if entry["target"] == "second"]
    assert any("its target was removed from the config" in message for message in said)
