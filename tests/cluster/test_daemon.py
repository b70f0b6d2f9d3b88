"""The daemon on a cluster, as its users meet it: by git, by the command line, and by the audit log."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from tests.cluster.daemon_rig import DaemonRig, running
from tests.cluster.rig import config_map
from tests.controlplane.control_plane import ControlPlane

pytestmark = pytest.mark.cluster


@pytest.fixture
def rig(tmp_path_factory: pytest.TempPathFactory, control_plane: ControlPlane, namespace: str) -> Iterator[DaemonRig]:
    """A daemon that has applied two ConfigMaps."""
    rig = DaemonRig(tmp_path_factory.mktemp("daemon") / "rig", control_plane, namespace, others={"resync": "1s"})
    rig.push({"prod/a.yaml": config_map("a", x="1"), "prod/b.yaml": config_map("b", x="1")})
    with running(rig):
        rig.converge()
        yield rig


def test_idle_daemon_asks_nothing_of_the_api_server(rig: DaemonRig):
    rig.wait("a quiet second", lambda: _asked_in(rig, 1.0) == [], 120)
    before = _passes(rig)

    assert _asked_in(rig, 5.0) == []

    assert _passes(rig) >= before + 3


def _asked_in(rig: DaemonRig, seconds: float) -> list[str]:
    rig.asked()
    time.sleep(seconds)
    return rig.asked()


def _passes(rig: DaemonRig) -> int:
    status = rig.status()
    assert status is not None
    return int(status["daemon"]["passes"])


def test_what_others_change_and_delete_is_repaired_when_it_is_seen(rig: DaemonRig):
    rig.others["resync"] = "10m"
    rig.write_config()
    rig.kill()
    rig.start()
    rig.converge()

    rig.api.patch(rig.config_map("a"), {"data": {"x": "9"}}, manager="kubectl-edit")
    rig.wait("the value of git", lambda: rig.data("a") == {"x": "1"}, 10)
    rig.api.delete(rig.config_map("a"))
    rig.wait("the object of git", lambda: rig.data("a") == {"x": "1"}, 10)

    said = rig.ask("history", "-o", "json").stdout
    assert "kubectl-edit changed data.x" in said


def test_suspended_target_is_left_alone_until_it_is_resumed(rig: DaemonRig):
    rig.ask("suspend", "--reason", "maintenance")
    rig.push({"prod/a.yaml": config_map("a", x="2"), "prod/b.yaml": None})
    head = rig.head()
    rig.wait("the new commit to be seen", lambda: rig.told()["revision"]["desired"] == head)
    _one_more_pass(rig)
    assert (rig.data("a"), rig.data("b")) == ({"x": "1"}, {"x": "1"})
    assert not rig.is_applied()

    rig.ask("resume")

    rig.converge()
    assert (rig.data("a"), rig.data("b")) == ({"x": "2"}, None)


def _one_more_pass(rig: DaemonRig) -> None:
    before = _passes(rig)
    rig.wait("another pass", lambda: _passes(rig) > before + 1)


def test_commands_say_what_happens_on_a_cluster(rig: DaemonRig):
    assert "Kubernetes 1.36.3" in rig.ask("status").stdout
    assert rig.ask("plan").returncode == 0
    assert rig.ask("diff").stdout.startswith("no difference")

    rig.ask("suspend")
    rig.push({"prod/a.yaml": config_map("a", x="2"), "prod/c.yaml": config_map("c", x="1")})
    head = rig.head()
    rig.wait("the new commit to be seen", lambda: rig.told()["revision"]["desired"] == head)
    rig.ask("resume")
    rig.converge()
    events = [each["event"] for each in json.loads(rig.ask("history", "-o", "json").stdout)["entries"]]
    assert events.count("object_applied") == 4
    assert "there are no services" in rig.ask("logs", "x/y", expect=None).stderr


def test_many_deletions_wait_for_approve(rig: DaemonRig):
    rig.push({f"prod/{name}.yaml": config_map(name, x="1") for name in "cdef"})
    rig.converge()
    rig.push({f"prod/{name}.yaml": None for name in "abcdef"})
    held = rig.wait("deletions to be held", lambda: rig.told()["deletions"]["held"])
    assert held["hash"] in rig.ask("approve", "--list").stdout
    assert all(rig.data(name) for name in "abcdef")

    rig.ask("approve", held["hash"])

    rig.converge()
    assert not any(rig.data(name) for name in "abcdef")
    rig.wait("the inventory to be empty", lambda: rig.members() == {})
