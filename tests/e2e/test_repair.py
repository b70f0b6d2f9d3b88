"""Processes die: each death is noticed, repaired, and nothing is left of the dead."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.e2e.conftest import MakeRig
from tests.e2e.rig import Rig

pytestmark = pytest.mark.e2e


def session_of(pid: int) -> set[int]:
    """All processes in a process's session."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(") ")[2].split()
        except OSError:
            continue
        if int(fields[3]) == pid and fields[0] != "Z":
            found.add(int(folder.name))
    return found


@pytest.mark.timeout(900)
def test_each_process_of_a_stock_server_may_be_killed_and_leaves_no_orphan(make_rig: MakeRig, stock_python: Path):
    rig = make_rig(python=stock_python, rollout={"ready_timeout": "300s"})
    rig.start()
    rig.converge(300)
    (api,) = rig.pids()
    family = session_of(api)
    assert len(family) > 1, "a stock engine has processes beside the server"
    os.kill(api, signal.SIGKILL)
    await_successor(rig, api)
    assert not [pid for pid in family if pid in session_of(api)]
    (main,) = rig.pids()
    engines = [p for p in session_of(main) if "EngineCore" in Path(f"/proc/{p}/comm").read_text() or _is_engine(p)]
    assert engines
    # The server exits with 0 then.
    os.kill(engines[0], signal.SIGKILL)
    await_successor(rig, main)
    assert not session_of(main)
    assert rig.service()["rejected"] is None, "a death after promotion is an incident, not the commit's fault"


def await_successor(rig: Rig, dead: int) -> None:
    rig.wait("its successor", lambda: rig.pids() and dead not in rig.pids() and rig.is_applied(), 300)
    rig.wait("the successor to serve", rig.serves, 300)


def _is_engine(pid: int) -> bool:
    return b"EngineCore" in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_killed_proxy_is_replaced_and_serves_the_same_routes(rig: Rig):
    before = rig.pids()
    envoys = [int(folder.name) for folder in Path("/proc").glob("[0-9]*") if _is_proxy_of(rig, folder)]
    assert len(envoys) == 1
    os.kill(envoys[0], signal.SIGKILL)
    rig.wait("the proxy to be back", rig.serves, 30)
    assert rig.words().count('"proxy_ensured"') == 2
    assert rig.pids() == before


def _is_proxy_of(rig: Rig, folder: Path) -> bool:
    try:
        return folder.joinpath("comm").read_text().strip() == "envoy" and folder.joinpath(
            "cwd"
        ).resolve().is_relative_to(rig.folder.resolve())
    except OSError:
        return False


def test_replica_killed_while_daemon_is_down_is_replaced_when_it_is_back(rig: Rig):
    (main,) = rig.pids()
    rig.kill()
    os.kill(main, signal.SIGKILL)
    rig.start()
    rig.wait("its successor", lambda: rig.pids() and main not in rig.pids())
    rig.wait("the successor to serve", rig.serves)


def test_repeated_crashes_back_off_and_degrade_but_are_never_quarantined(rig: Rig):
    for _ in range(3):
        (main,) = rig.pids() or rig.wait("a replica", rig.pids)
        os.kill(main, signal.SIGKILL)
        rig.wait("its death to be seen", lambda m=main: m not in rig.pids())
        rig.wait("a successor or a pause", lambda: rig.pids() or rig.service()["health"]["status"] == "Degraded")
    rig.wait("the verdict", lambda: rig.service()["health"]["status"] == "Degraded")
    assert rig.service()["health"]["reason"] == "CrashLoopBackOff"
    assert rig.service()["rejected"] is None
