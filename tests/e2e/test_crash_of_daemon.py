"""The daemon may die anywhere: it is killed with -9 at every boundary of a rollout, again and again, under load."""

from __future__ import annotations

import itertools

import pytest

from tests.e2e.conftest import MakeRig
from tests.e2e.rig import Rig

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]

TINY = "demo/tiny.yaml"


def kill_at_every_boundary(rig: Rig, stride: int = 1) -> int:
    """One rollout per boundary, killed there; until a rollout has no further boundary. Returns how many there were."""
    for number in itertools.count(0, stride):
        rig.kill()
        rig.start(crash_at=number)
        rig.wait("the daemon to be back", lambda: rig.status() or not rig.is_running())
        rig.edit(TINY, r"--max-num-seqs=\d+", f"--max-num-seqs={number + 9}")
        rig.wait("its death, or the end of the rollout", lambda: not rig.is_running() or rig.is_applied())
        if rig.is_running():
            rig.wait("the old replica to be gone", lambda: len(rig.records()) == 1 or not rig.is_running())
        survived = rig.is_running()
        if not survived:
            rig.start()
            rig.converge()
            rig.wait("only the new replica to be left", lambda: len(rig.records()) == 1)
        assert len(rig.pids()) == 1
        if survived:
            return number
    raise AssertionError


@pytest.mark.parametrize("memory", [64, 3], ids=["surge", "stop_first"])
def test_killed_at_every_boundary_of_a_rollout_it_loses_no_request(make_rig: MakeRig, memory: int):
    rig = make_rig(memory=memory, rollout={"min_ready": "0.2s"})
    rig.start()
    rig.converge()
    with rig.load(streams=1, posts=1) as load:
        boundaries = kill_at_every_boundary(rig)
        tally = load.stop()
    assert boundaries > 10
    assert tally.lost == 0, str(tally)
    assert (tally.refused > 0) == (memory == 3), str(tally)
    assert rig.serves()


def test_traffic_does_not_notice_that_the_daemon_is_gone(rig: Rig):
    before = rig.pids()
    with rig.load(streams=1, posts=1) as load:
        rig.kill()
        rig.wait("some requests", lambda: load.tally().requests > 50)
        rig.start()
        rig.wait("the daemon to be back", rig.is_applied)
        tally = load.stop()
    assert (tally.lost, tally.refused) == (0, 0), str(tally)
    assert rig.pids() == before


def test_sigterm_leaves_workloads_serving_and_sighup_reads_the_config_again(rig: Rig):
    import signal

    before = rig.pids()
    rig.config.write_text(rig.config.read_text().replace("resync: 60s", "resync: 50s"))
    rig.process.send_signal(signal.SIGHUP)
    rig.wait("the new config", lambda: rig.words().count('"started"') == 2 or rig.words().count("started") >= 2)
    rig.config.write_text("source: [broken")
    rig.process.send_signal(signal.SIGHUP)
    rig.wait("its refusal", lambda: "config_rejected" in rig.words())
    rig.write_config()
    rig.wait("the daemon to be back", rig.is_applied)
    rig.kill(signal.SIGTERM)
    assert rig.serves()
    assert rig.pids() == before


def test_sync_without_a_daemon_converges_and_tells_so(make_rig: MakeRig):
    rig = make_rig()
    assert rig.ask("sync").returncode == 0
    assert rig.serves()
    rig.edit(TINY, r"--max-num-seqs=\d+", "--max-num-seq=9")
    said = rig.ask("sync", expect=1)
    assert TINY in said.stdout + said.stderr
    assert rig.serves()
