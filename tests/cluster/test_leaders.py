"""Several daemons for one target: one acts, whatever becomes of whom."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from datetime import datetime

import pytest

from tests.cluster.daemon_rig import DaemonRig, running
from tests.cluster.rig import config_map
from tests.controlplane.control_plane import ControlPlane

pytestmark = pytest.mark.cluster


@pytest.fixture
def rig(tmp_path_factory: pytest.TempPathFactory, control_plane: ControlPlane, namespace: str) -> Iterator[DaemonRig]:
    """A daemon that has applied a ConfigMap."""
    rig = DaemonRig(tmp_path_factory.mktemp("daemon") / "rig", control_plane, namespace, others={"resync": "2s"})
    rig.push({"prod/a.yaml": config_map("a", x="1")})
    with running(rig):
        rig.converge()
        yield rig


def test_second_daemon_looks_and_takes_over_when_the_first_dies(rig: DaemonRig):
    with running(rig.twin()) as other:
        (note,) = other.wait("the second to have looked", lambda: other.told().get("notes"))
        assert note["code"] == "NotLeader"
        assert note["message"].startswith("this daemon only looks: ")

        rig.asked()
        rig.kill()
        rig.push({"prod/a.yaml": config_map("a", x="2")})
        # The lease is good for 10 s, and is asked for every 2 s.
        rig.wait("the second to act", lambda: rig.data("a") == {"x": "2"}, 15)
        other.converge()
        assert rig.asked().count("patch configmaps/a") == 1

        rig.start()
        rig.wait("the first to look", lambda: rig.told().get("notes"))
        rig.push({"prod/a.yaml": config_map("a", x="3")})
        other.converge()
        assert rig.asked().count("patch configmaps/a") == 1


def test_sync_elsewhere_is_refused_while_a_daemon_leads_and_succeeds_it(rig: DaemonRig):
    other = rig.twin()
    refused = other.ask("sync", expect=None)
    assert refused.returncode != 0
    assert "acts for it" in refused.stderr

    rig.kill()
    rig.push({"prod/a.yaml": config_map("a", x="2")})
    other.ask("sync")
    assert rig.data("a") == {"x": "2"}
    # It gave the lease back: nobody waits for it.
    assert not (rig.api.get(rig.lease)["spec"].get("holderIdentity"))

    rig.start()
    rig.wait("the daemon to lead", lambda: rig.api.get(rig.lease)["spec"].get("holderIdentity"))
    rig.kill(signal.SIGTERM)
    assert not (rig.api.get(rig.lease)["spec"].get("holderIdentity"))


def test_killed_daemon_leads_again_without_waiting_for_its_lease(rig: DaemonRig):
    held = rig.api.get(rig.lease)["spec"]
    rig.kill()
    rig.start()

    taken = rig.wait("another holder", lambda: (s := rig.api.get(rig.lease)["spec"]) != held and s)

    assert taken["leaseTransitions"] == held["leaseTransitions"] + 1
    assert _seconds(taken["acquireTime"]) - _seconds(held["renewTime"]) < held["leaseDurationSeconds"]


def test_inventory_of_another_target_is_refused_and_left_as_it_is(rig: DaemonRig):
    inventory = rig.config_map("reconciler-prod")
    rig.api.patch(inventory, {"metadata": {"annotations": {"reconciler/owner": "another"}}})
    rig.push({"prod/a.yaml": None, "prod/b.yaml": config_map("b", x="1")})

    rig.wait("it to be refused", lambda: not rig.told()["reachable"])

    assert 'belongs to "another"' in rig.told()["reason"]
    assert (rig.data("a"), rig.data("b")) == ({"x": "1"}, None)
    rig.api.patch(inventory, {"metadata": {"annotations": {"reconciler/owner": "prod"}}})
    rig.converge()
    assert (rig.data("a"), rig.data("b")) == (None, {"x": "1"})


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
