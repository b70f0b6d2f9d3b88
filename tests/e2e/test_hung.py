"""Engines and proxies that hang: real vLLM, real Envoy."""

from __future__ import annotations

import os
import signal

import pytest

from reconciler.host.routing.process import find
from tests.e2e.conftest import MakeRig
from tests.e2e.rig import Rig
from tests.support.engine.fixtures import engine_processes
from tests.support.world import exists

pytestmark = pytest.mark.e2e

LIVENESS = {"interval": "3s", "timeout": "20s"}


def processes(rig: Rig) -> list[int]:
    """Of the one replica: its server first, then its engine core and what that started."""
    (main,) = rig.pids()
    return [pid for pid in engine_processes(rig.python, main) if pid != main]


def health(rig: Rig) -> tuple[str, str]:
    service = rig.service()
    return (service["health"]["status"], service["health"]["reason"]) if service else ("", "")


def events(rig: Rig) -> list[str]:
    return [one["event"] for one in rig.history()]


def test_stopped_engine_core_is_replaced(make_rig: MakeRig) -> None:
    rig = make_rig(target={"liveness": LIVENESS})
    rig.start()
    rig.converge()
    before, core = rig.pids(), processes(rig)[1:]
    assert core
    for pid in core:
        os.kill(pid, signal.SIGSTOP)
    rig.wait("the engine to be in doubt", lambda: health(rig) == ("Degraded", "Silent"))
    rig.wait("another engine", lambda: rig.pids() and not rig.pids() & before)
    rig.converge()
    assert rig.serves()
    assert not any(exists(pid) for pid in core)
    assert "replica_crashed" in events(rig)
    assert "digest_quarantined" not in events(rig)


def test_busy_engine_is_not_taken_for_hung(make_rig: MakeRig) -> None:
    rig = make_rig(target={"liveness": LIVENESS})
    rig.start()
    rig.converge()
    before = rig.pids()
    with rig.load() as load:
        rig.wait("many answers", lambda: load.tally().ok > 200, 300)
    assert rig.pids() == before
    assert "replica_crashed" not in events(rig)


def test_stopped_proxy_is_replaced_and_replicas_are_not(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.start()
    rig.converge()
    before, proxy = rig.pids(), find(rig.state / "proxy")
    assert proxy
    os.kill(proxy.pid, signal.SIGSTOP)
    rig.wait("another proxy", lambda: find(rig.state / "proxy") not in (None, proxy))
    rig.wait("answers", rig.serves)
    assert rig.pids() == before


def test_host_that_was_paused_keeps_its_replicas(make_rig: MakeRig) -> None:
    rig = make_rig(target={"liveness": {"interval": "1s", "timeout": "4s"}})
    rig.start()
    rig.converge()
    before, proxy = rig.pids(), find(rig.state / "proxy")
    assert proxy
    assert rig.process
    all_of_it = [proxy.pid, *before, *processes(rig)]
    for pid in all_of_it:
        os.kill(pid, signal.SIGSTOP)
    passes = rig.status()["daemon"]["passes"]  # type: ignore[index]
    rig.ask("sync", "--timeout", "30s", expect=None)
    rig.wait("some time", lambda: rig.status()["daemon"]["passes"] > passes)  # type: ignore[index]
    for pid in all_of_it:
        os.kill(pid, signal.SIGCONT)
    rig.wait("answers", rig.serves)
    assert (rig.pids(), find(rig.state / "proxy")) == (before, proxy)
    assert "replica_crashed" not in events(rig)
