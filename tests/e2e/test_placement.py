"""One host of a fleet: closed and opened again from git under load, and services that are for other hosts."""

from __future__ import annotations

import signal

import pytest

from tests.e2e.rig import Rig
from tests.support.judge import Verdict

pytestmark = pytest.mark.e2e

HOST = "demo/host.yaml"


def says(rig: Rig, reason: str, name: str = "tiny") -> bool:
    """Is it Suspended for this reason, with nothing left of it?"""
    service = rig.service(name)
    health = service["health"] if service else {}
    return (health.get("status"), health.get("reason")) == ("Suspended", reason) and not rig.records(name)


def is_healthy(rig: Rig, name: str) -> bool:
    service = rig.service(name)
    return service is not None and service["health"]["status"] == "Healthy"


def test_host_closed_from_git_is_emptied_without_loss_and_comes_back(rig: Rig):
    text = rig.read(HOST)
    with rig.load(streams=2, posts=2) as load:
        rig.write({HOST: text.replace("spec: {}", "spec:\n  drain: true")})
        rig.converge()
        assert says(rig, "Drained")
        assert {answer.verdict for answer in rig.complete()} == {Verdict.REFUSED}, "503 with Retry-After, on every way"
        assert "Drained (demo/host.yaml:" in rig.ask("status").stdout
        rig.ask("sync")

        rig.write({HOST: text.replace("spec: {}", "spec:\n  drian: false")})
        rig.wait("the broken file to be named", lambda: rig.status()["targets"][0]["unreadable"])
        rig.kill()
        rig.start()
        rig.wait("the daemon to be back", lambda: rig.status() and rig.status()["daemon"]["passes"] > 1)
        assert says(rig, "Drained"), "what it said last holds, also for a daemon that remembers nothing"
        assert "did you mean drain?" in rig.ask("sync", expect=1).stderr

        rig.write({HOST: text})
        rig.converge()
        tally = load.stop()
    assert rig.serves()
    assert tally.lost == 0, str(tally)
    assert tally.refused > 0
    events = rig.ask("history").stdout
    assert "host_drained" in events
    assert "host_undrained" in events


def test_host_drained_by_hand_is_emptied_without_loss_and_comes_back(rig: Rig):
    with rig.load(streams=2, posts=2) as load:
        rig.ask("host", "drain", "--reason", "a disk is replaced")
        rig.wait("it to be empty", lambda: says(rig, "Drained"))
        assert {answer.verdict for answer in rig.complete()} == {Verdict.REFUSED}, "503 with Retry-After, on every way"
        assert "a disk is replaced (`reconciler host undrain` ends it)" in rig.ask("status", expect=1).stdout
        assert "drained by" in rig.ask("sync", expect=1).stderr

        rig.kill()
        rig.start()
        rig.wait("the daemon to be back", lambda: rig.status() and rig.status()["daemon"]["passes"] > 1)
        assert says(rig, "Drained"), "it outlives the daemon"

        started = rig.ask("history", "-n", "1000").stdout.count(" replica_started ")
        rig.ask("host", "undrain")
        rig.ask("sync")
        tally = load.stop()
    assert rig.serves()
    assert rig.ask("history", "-n", "1000").stdout.count(" replica_started ") == started + 1, "exactly what git wants"
    assert tally.lost == 0, str(tally)
    events = rig.ask("history").stdout
    assert "host_drained" in events
    assert "host_undrained" in events


def test_service_for_other_hosts_is_shown_and_moves_as_git_and_config_say(rig: Rig):
    text = rig.read("demo/tiny.yaml")
    selecting = text.replace("  predictor:\n", "  predictor:\n    nodeSelector:\n      disk: ssd\n")
    rig.write({"demo/fast.yaml": selecting.replace("name: tiny\n", "name: fast\n")})
    rig.converge()
    assert says(rig, "NotForThisHost", "fast")
    assert "this host has no label disk" in rig.ask("status").stdout
    rig.ask("sync")
    assert rig.serves()

    rig.write({"demo/tiny.yaml": selecting})
    rig.converge()
    assert says(rig, "NotForThisHost")
    assert not list((rig.folder / "state" / "demo" / "services").iterdir()), "like one that was deleted"

    rig.target = {"labels": {"disk": "ssd"}}
    rig.write_config()
    assert rig.process
    rig.process.send_signal(signal.SIGHUP)
    for name in ("tiny", "fast"):
        rig.wait(f"{name} to serve", lambda name=name: is_healthy(rig, name))
        assert rig.serves(name)
