"""A whole host on a real systemd: its services are units, and all that keeps them so is real."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_crash_of_daemon import kill_at_every_boundary
from tests.engine.fixtures import find_place
from tests.machines.conftest import refuse
from tests.machines.machine import NoMachine, check
from tests.machines.rig import USER, MachineRig

pytestmark = [pytest.mark.host, pytest.mark.timeout(600)]
TINY = "demo/tiny.yaml"
SEQS = r"--max-num-seqs=\d+"
MakeRig = Callable[..., MachineRig]


@pytest.fixture
def make_rig(engine_python: Path, tiny_model: Path) -> Iterator[MakeRig]:
    try:
        check()
    except NoMachine as error:
        refuse(str(error))
    rigs: list[MachineRig] = []

    def make(**options: Any) -> MachineRig:
        # Not below /tmp: units have one of their own.
        folder = Path("/run") / f"reconciler-tests-{os.getpid()}-{len(rigs)}"
        shutil.rmtree(folder, ignore_errors=True)
        try:
            rigs.append(MachineRig(folder, python=engine_python, model=tiny_model, place=find_place(), **options))
        except NoMachine as error:
            shutil.rmtree(folder, ignore_errors=True)
            refuse(str(error))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.close()


@pytest.fixture
def rig(make_rig: MakeRig) -> MachineRig:
    """A machine whose daemon already serves `tiny`."""
    rig = make_rig()
    rig.start()
    rig.converge()
    return rig


def test_a_push_serves_an_update_loses_nothing_and_a_bad_commit_changes_nothing(rig: MachineRig) -> None:
    assert rig.serves()
    (first,) = rig.units("active")
    assert rig.machine.run("systemctl", "is-enabled", first).strip() == "enabled"
    with rig.load(streams=1, posts=1) as load:
        rig.edit(TINY, SEQS, "--max-num-seqs=12")
        rig.converge()
        rig.wait("the old unit to be gone", lambda: len(rig.units()) == 1)
        rig.edit(TINY, SEQS, "--max-num-seq=13")
        rejected = rig.wait("the rejection", lambda: (rig.service() or {}).get("rejected"))
        tally = load.stop()
    assert (tally.lost, tally.refused) == (0, 0), str(tally)
    assert "--max-num-seqs" in rejected["reason"]
    assert (rejected["file"], "--max-num-seq=13" in rig.read(TINY).splitlines()[rejected["line"] - 1]) == (TINY, True)
    (second,) = rig.units("active")
    assert second != first
    assert [path.name for path in rig.unit_files()] == [second]
    name, *refused, network, home = rig.told_of_preflight().splitlines()
    assert (name, Path(home).parent) == (USER, Path("/var/cache/reconciler"))
    assert network.startswith("net:[")
    assert network != rig.machine.run("readlink", "/proc/self/ns/net").strip(), "the machine's network is not its own"
    assert [line.partition(": ")[2] for line in refused] == [
        f"cannot touch '{path}': Read-only file system" for path in ("/etc/written", "/srv/written")
    ]


def test_a_commit_that_crashes_is_rolled_back_and_what_it_said_is_told(rig: MachineRig) -> None:
    before = rig.units()
    with rig.load(streams=1, posts=1) as load:
        rig.edit(TINY, SEQS, "--max-num-seqs=99")
        rejected = rig.wait("the rollback", lambda: (rig.service() or {}).get("rejected"))
        rig.wait("the failed unit to be gone", lambda: len(rig.unit_files()) == 1)
        tally = load.stop()
    assert (tally.lost, tally.refused) == (0, 0), str(tally)
    assert rig.units() == before
    assert "no kernel" in rejected["reason"]
    assert any("no kernel" in line for line in rejected["lastWords"])


def test_a_deleted_service_leaves_no_unit(rig: MachineRig) -> None:
    rig.write({TINY: None})
    rig.converge()
    rig.wait("its unit to be gone", lambda: not rig.units() and not rig.unit_files())
    wanted = rig.machine.root / "etc/systemd/system/multi-user.target.wants"
    assert not list(wanted.glob("reconciler-demo.*"))


def test_after_a_reboot_it_serves_without_git_and_daemon_which_then_take_it_over(rig: MachineRig) -> None:
    (unit,) = rig.units("active")
    rig.kill()
    away = rig.repository.bare.rename(rig.folder / "away.git")
    rig.machine.reboot()
    rig.wait("the unit to serve again, with nobody to ask for it", rig.serves)
    invocation = rig.machine.run("systemctl", "show", "-P", "InvocationID", unit)
    with rig.load(streams=1, posts=1) as load:
        rig.start()
        rig.wait("the daemon to know it", lambda: (rig.service() or {}).get("ready") == "1/1")
        away.rename(rig.repository.bare)
        rig.converge()
        tally = load.stop()
    assert (tally.lost, tally.refused) == (0, 0), str(tally)
    assert rig.units() == [unit]
    assert rig.machine.run("systemctl", "show", "-P", "InvocationID", unit) == invocation, "it was not restarted"
    roll_again(rig)


def test_what_somebody_does_by_hand_is_noticed_and_put_right(rig: MachineRig) -> None:
    (unit,) = rig.units("active")
    (path,) = rig.unit_files()
    serving, written = rig.pids(), path.read_bytes()
    rig.machine.run("systemctl", "daemon-reexec")
    path.write_bytes(written + b"\n[Service]\nRestart=no\n")
    rig.machine.run("systemctl", "daemon-reload")
    rig.wait("the file to be as it was", lambda: path.read_bytes() == written)
    rig.wait("systemd to know it", lambda: rig.machine.run("systemctl", "show", "-P", "Restart", unit) == "always\n")
    rig.machine.run("systemctl", "disable", unit)
    rig.wait(
        "a reboot to start it", lambda: rig.machine.run("systemctl", "is-enabled", unit, expect=None) == "enabled\n"
    )
    assert rig.pids() == serving, "what serves is not restarted for that"
    rig.machine.run("systemctl", "restart", unit)
    rig.wait("it to serve again", lambda: rig.pids() and not rig.pids() & serving and rig.is_applied() and rig.serves())
    assert rig.units() == [unit], "who restarts a unit gets that unit, and no other"
    assert "stopped or restarted by hand" in (rig.folder / "daemon.log").read_text()
    for word in (("stop",), ("kill", "--signal=KILL")):
        (unit,) = rig.units("active")
        before = rig.pids()
        rig.machine.run("systemctl", *word, unit)
        rig.wait("another one to serve", lambda: rig.pids() and not rig.pids() & before and rig.is_applied())  # noqa: B023
        rig.wait("the rest to be gone", lambda: len(rig.units()) == 1)
        rig.wait("it to serve", rig.serves)
    assert rig.service()["rejected"] is None, "it is nobody's commit that somebody stops a unit"


def roll_again(rig: MachineRig) -> None:
    (old,) = rig.units("active")
    rig.edit(TINY, SEQS, "--max-num-seqs=11")
    rig.converge()
    rig.wait("the old unit to be gone", lambda: len(rig.units()) == 1 and rig.units() != [old])


def test_killed_at_boundaries_of_a_rollout_the_daemon_loses_no_request(make_rig: MakeRig) -> None:
    rig = make_rig(rollout={"min_ready": "0.2s"})
    rig.start()
    rig.converge()
    with rig.load(streams=1, posts=1) as load:
        # Calls to systemd are boundaries too.
        boundaries = kill_at_every_boundary(rig, stride=17)
        tally = load.stop()
    assert boundaries > 10
    assert (tally.lost, tally.refused) == (0, 0), str(tally)
    rig.wait("it to serve", rig.serves)
