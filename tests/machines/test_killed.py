"""The daemon is killed with -9 at every boundary of what it does to units: on a real systemd, under load."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.killing import SEQS, TINY, assert_died_in, assert_idle, footprint, go, roll
from tests.e2e.rig import Rig
from tests.machines.conftest import MakeRig
from tests.machines.rig import MachineRig

pytestmark = [pytest.mark.host, pytest.mark.timeout(900)]
GPUS = ("GPU-a", "GPU-b")


def units(rig: MachineRig) -> dict[str, list[str]]:
    """Everything of replicas that systemd has."""
    folder = rig.machine.root / "etc/systemd/system"
    groups = rig.machine.run("find", "/sys/fs/cgroup", "-type", "d", "-name", f"{rig.prefix}*")
    return {
        "files": sorted(path.name for path in folder.glob(f"*{rig.prefix}*")),
        "links": sorted(path.name for path in folder.glob(f"*/*{rig.prefix}*")),
        "units": sorted(rig.units()),
        "groups": sorted(Path(line).name for line in groups.splitlines()),
    }


def sockets(rig: Rig) -> list[Path]:
    """The folders of those that replicas listen on."""
    return [*(rig.machine.root / "run").glob(f"reconciler-{'[0-9a-f]' * 16}")]


def is_rejected(rig: Rig) -> bool:
    return bool((rig.service() or {}).get("rejected")) and len(rig.records()) == 1


def test_killed_at_every_boundary_it_loses_no_request_and_leaves_nothing(make_rig: MakeRig) -> None:
    """To another digest by surge, back by stop-first, back from a bad commit: as if it had never left."""
    rig = make_rig(MachineRig, rollout={"min_ready": "0.2s"}, gpus=GPUS)
    rig.write({TINY: rig.read(TINY).replace("memory: 4Gi", "memory: 4Gi\n          nvidia.com/gpu: '1'")})
    rig.start()
    rig.converge()
    before = footprint(rig), units(rig)
    for spare, seqs in ((True, 9), (False, 8)):
        (held,) = rig.records()
        rig.gpus = GPUS if spare else held.lease.gpus
        rig.write_config()
        with rig.load(streams=1, posts=1) as load:
            died = roll(rig, seqs)
            tally = load.stop()
        assert tally.lost == 0, str(tally)
        assert (tally.refused > 0) == (not spare), str(tally)
        assert_died_in(died, "Start", "MarkReady", "SetRoutes", "Promote", "Drain", "Stop", "Remove")
        assert {"EnableUnitFiles", "StartUnit", "StopUnit", "DisableUnitFiles"} <= {
            word for line in died for word in line.split()
        }
    assert (footprint(rig), units(rig)) == before
    rig.gpus = GPUS
    rig.write_config()
    with rig.load(streams=1, posts=1) as load:
        died = go(rig, lambda: rig.edit(TINY, SEQS, "--max-num-seqs=99"), "the rollback", lambda: is_rejected(rig))
        tally = load.stop()
    assert (tally.lost, tally.refused) == (0, 0), str(tally)
    assert_died_in(died, "Start", "Reject", "Stop", "Remove")
    assert (footprint(rig), units(rig)) == before
    assert len(sockets(rig)) == 1
    died = go(rig, lambda: rig.write({TINY: None}), "nothing to be left", rig.is_applied)
    assert_died_in(died, "Drain", "Stop", "Remove", "Forget")
    assert not any(units(rig).values())
    assert not sockets(rig)
    left = footprint(rig)
    assert (left["replicas"], left["promoted"]) == ([], None)
    assert not [name for name in left["files"] if name.startswith(("replicas/", "services/"))]
    assert_idle(rig)
