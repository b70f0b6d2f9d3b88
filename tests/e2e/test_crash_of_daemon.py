"""The daemon may die anywhere: it is killed with -9 at every boundary of a rollout, again and again, under load."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import MakeRig
from tests.e2e.killing import SEQS, TINY, assert_died_in, assert_idle, footprint, roll
from tests.e2e.rig import Rig

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]


def test_killed_at_every_boundary_it_loses_no_request_and_leaves_nothing(make_rig: MakeRig):
    """To another digest by surge, and back by stop-first: then all must be as if it had never left."""
    rig = make_rig(rollout={"min_ready": "0.2s"})
    rig.start()
    rig.converge()
    before = footprint(rig)
    for memory, seqs in ((64, 9), (3, 8)):
        rig.memory = memory
        rig.write_config()
        with rig.load(streams=1, posts=1) as load:
            died = roll(rig, seqs)
            tally = load.stop()
        assert tally.lost == 0, str(tally)
        assert (tally.refused > 0) == (memory == 3), str(tally)
        assert_died_in(died, "Start", "MarkReady", "SetRoutes", "Promote", "Drain", "Stop", "Remove")
    assert footprint(rig) == before
    assert_idle(rig)


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


def test_sigterm_leaves_workloads_serving_and_sighup_reads_config_again(rig: Rig):
    import signal

    before = rig.pids()
    rig.config.write_text(rig.config.read_text().replace("resync: 60s", "resync: 50s"))
    rig.process.send_signal(signal.SIGHUP)
    rig.wait("the new config", lambda: rig.words().count('"daemon_started"') == 2)
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
    rig.edit(TINY, SEQS, "--max-num-seq=9")
    said = rig.ask("sync", expect=1)
    assert TINY in said.stdout + said.stderr
    assert rig.serves()
