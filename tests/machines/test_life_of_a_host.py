"""A whole host on a real systemd, as `reconciler host install` makes it: its services are units, and all is real."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.machines.conftest import MakeRig
from tests.machines.installed import InstalledRig
from tests.machines.network import Switch
from tests.machines.remote import serve_git
from tests.machines.rig import USER

pytestmark = [pytest.mark.host, pytest.mark.timeout(600)]
TINY = "demo/tiny.yaml"
SEQS = r"--max-num-seqs=\d+"


def serving(make_rig: MakeRig, **options: object) -> InstalledRig:
    """A host that was installed and serves `tiny`."""
    rig = make_rig(InstalledRig, **options)
    rig.start()
    rig.converge()
    return rig


def test_installed_host_serves_updates_rolls_back_and_deletes_as_git_says(make_rig: MakeRig) -> None:
    rig = serving(make_rig)
    assert rig.serves()
    assert " 0 problems" in rig.host("doctor")
    (first,) = rig.units("active")
    assert rig.machine.run("systemctl", "is-enabled", first).strip() == "enabled"
    with rig.load(streams=1, posts=1) as load:
        update(rig)
        refuse_what_cannot_start(rig)
        roll_back_what_crashes(rig)
        tally = load.stop()
    assert (tally.lost, tally.refused) == (0, 0), str(tally)
    delete(rig)


def update(rig: InstalledRig) -> None:
    (before,) = rig.units("active")
    rig.edit(TINY, SEQS, "--max-num-seqs=12")
    rig.converge()
    rig.wait("the old unit to be gone", lambda: len(rig.units()) == len(rig.unit_files()) == 1)
    assert rig.units("active") != [before]


def refuse_what_cannot_start(rig: InstalledRig) -> None:
    """It is asked for its arguments as the user of replicas, in their sandbox."""
    before = rig.invocations()
    rig.edit(TINY, SEQS, "--max-num-seq=13")
    rejected = rig.wait("the rejection", lambda: (rig.service() or {}).get("rejected"))
    assert "--max-num-seqs" in rejected["reason"]
    assert (rejected["file"], "--max-num-seq=13" in rig.read(TINY).splitlines()[rejected["line"] - 1]) == (TINY, True)
    assert rig.invocations() == before
    name, *refused, network, home = rig.told_of_preflight().splitlines()
    assert (name, Path(home).parent) == (USER, Path("/var/cache/reconciler"))
    assert network.startswith("net:[")
    assert network != rig.machine.run("readlink", "/proc/self/ns/net").strip(), "the machine's network is not its own"
    assert [line.partition(": ")[2] for line in refused] == [
        f"cannot touch '{path}': Read-only file system" for path in ("/etc/written", "/srv/written")
    ]


def roll_back_what_crashes(rig: InstalledRig) -> None:
    """Its output is reported."""
    before = rig.invocations()
    commit = rig.edit(TINY, r"--max-num-seq=13", "--max-num-seqs=99") and rig.repository.head()
    rejected = rig.wait("the rollback", lambda: _rejected_for(rig, commit))
    rig.wait("the failed unit to be gone", lambda: len(rig.unit_files()) == 1)
    assert rig.invocations() == before
    assert "no kernel" in rejected["reason"]
    assert any("no kernel" in line for line in rejected["logTail"])


def _rejected_for(rig: InstalledRig, commit: str) -> dict[str, str] | None:
    rejected: dict[str, str] | None = (rig.service() or {}).get("rejected")
    return rejected if rejected and rejected["revision"] == commit else None


def delete(rig: InstalledRig) -> None:
    rig.write({TINY: None})
    rig.converge()
    rig.wait("its unit to be gone", lambda: not rig.units() and not rig.unit_files())
    wanted = rig.machine.root / "etc/systemd/system/multi-user.target.wants"
    assert not list(wanted.glob("reconciler-demo.*"))


def test_reboot_without_git_brings_everything_back_with_or_without_daemon(make_rig: MakeRig, switch: Switch) -> None:
    rig = make_rig(InstalledRig, network=switch.plug())
    assert rig.network
    with serve_git(rig.folder, switch) as remote:
        rig.source = remote.source(rig.folder)
        rig.write_config()
        rig.start()
        rig.converge()
        (unit,) = rig.units("active")
        before = len(rig.history())

        switch.cut(rig.network)
        rig.machine.reboot()
        rig.wait("it to serve again", rig.serves)
        rig.wait("the daemon to know it, and to miss git", lambda: knows_it(rig) and rig.status()["revision"]["error"])  # type: ignore[index]
        # The first question may still be under way.
        words = r"git (has not answered yet|could not be read) since the daemon started"
        assert re.search(words, rig.ask("status", expect=1).stdout)
        assert rig.units() == [unit]
        assert rig.machine.run("systemctl", "show", "-P", "NRestarts", unit) == "0\n"
        told = {entry["event"] for entry in rig.history()[before:]}
        assert told <= {"revision_fetched", "replica_ready", "source_failed"}, "no crash, no start"

        rig.enable(False)
        rig.machine.reboot()
        rig.wait("it to serve again, with nobody to ask for it", rig.serves)
        assert not rig.is_running()
        invocations = rig.invocations()
        with rig.load(streams=1, posts=1) as load:
            rig.start()
            rig.wait("the daemon to know it", lambda: knows_it(rig))
            switch.repair(rig.network)
            rig.converge()
            assert rig.invocations() == invocations, "replica and proxy were taken over as they are"
            rig.edit(TINY, SEQS, "--max-num-seqs=11")
            rig.converge()
            rig.wait("the old unit to be gone", lambda: len(rig.units()) == 1 and rig.units() != [unit])
            tally = load.stop()
        assert (tally.lost, tally.refused) == (0, 0), str(tally)


def knows_it(rig: InstalledRig) -> bool:
    return (rig.service() or {}).get("ready") == "1/1"


def test_host_drained_by_hand_stays_empty_over_a_reboot(make_rig: MakeRig) -> None:
    rig = serving(make_rig)
    rig.host("drain", "--reason", "a disk is replaced")
    rig.wait("it to be empty", lambda: not rig.units() and not rig.unit_files())
    rig.machine.reboot()
    rig.wait("the daemon to be back", lambda: (rig.status() or {"daemon": {"passes": 0}})["daemon"]["passes"] > 1)
    assert rig.units() == []
    assert "a disk is replaced (`reconciler host undrain` ends it)" in rig.ask("status", expect=1).stdout
    rig.host("undrain")
    rig.wait("it to serve again", rig.serves)
    assert len(rig.units("active")) == 1


def test_what_somebody_does_by_hand_is_noticed_named_and_put_right(make_rig: MakeRig) -> None:
    # Nothing but a signal of systemd makes the daemon look.
    rig = serving(make_rig, resync="1h")
    (unit,) = rig.units("active")
    (path,) = rig.unit_files()
    invocations, written = rig.invocations(), path.read_bytes()
    rig.machine.run("systemctl", "daemon-reexec")
    path.write_bytes(written + b"\n[Service]\nRestart=no\n")
    rig.machine.run("systemctl", "daemon-reload")
    rig.wait("the file to be as it was", lambda: path.read_bytes() == written)
    await_property(rig, unit, "Restart", "always")
    assert repaired(rig) == f"/etc/systemd/system/{unit} was edited manually"
    added = path.with_name(f"{unit}.d")
    added.mkdir()
    (added / "override.conf").write_text("[Service]\nRestart=no\n")
    rig.machine.run("systemctl", "daemon-reload")
    await_property(rig, unit, "Restart", "always")
    assert not added.exists()
    assert repaired(rig) == f"/etc/systemd/system/{unit}.d was added manually"
    rig.machine.run("systemctl", "disable", unit)
    await_property(rig, unit, "UnitFileState", "enabled")
    assert repaired(rig) == f"{unit} was disabled manually: a reboot would not start it"
    assert rig.invocations() == invocations, "what serves is not restarted for that"

    before = rig.pids()
    rig.machine.run("systemctl", "restart", unit)
    rig.wait("it to serve again", lambda: rig.pids() and not rig.pids() & before and rig.is_applied() and rig.serves())
    assert rig.units() == [unit], "who restarts a unit gets that unit, and no other"
    assert any("restarted manually" in entry["message"] for entry in rig.history())

    told = (
        (("stop",), "replica_stop_started", "was stopped manually"),
        (("kill", "--signal=KILL"), "replica_crashed", "the engine ended with status -9 while it served"),
    )
    for words, event, why in told:
        (unit,) = rig.units("active")
        known = len(rig.history())
        rig.machine.run("systemctl", *words, unit)
        rig.wait("another one to serve", lambda u=unit: rig.units("active") not in ([u], []) and rig.is_applied())  # type: ignore[misc]
        rig.wait("the rest to be gone", lambda: len(rig.units()) == 1)
        rig.wait("it to serve", rig.serves)
        (said,) = [entry["message"] for entry in rig.history()[known:] if entry["event"] == event]
        assert why in said
    assert (rig.service() or {})["rejected"] is None, "it is nobody's commit that somebody stops a unit"


def await_property(rig: InstalledRig, unit: str, name: str, value: str) -> None:
    rig.wait(f"{name}={value}", lambda: rig.machine.run("systemctl", "show", "-P", name, unit).strip() == value)


def repaired(rig: InstalledRig) -> str:
    """What the latest repair was for."""
    return str(
        [entry["message"] for entry in rig.history() if entry["event"] == "replica_repaired"][-1].partition(": ")[2]
    )
