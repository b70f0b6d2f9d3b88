"""A host whose daemon sees no system bus: all that it asks of systemd goes by the private socket."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tests.machines.conftest import MakeRig
from tests.machines.rig import MachineRig

pytestmark = [pytest.mark.host, pytest.mark.timeout(600)]
PRIVATE, BUS = "/run/systemd/private", "/run/dbus/system_bus_socket"
TINY = "demo/tiny.yaml"
# It waits for its units, for which it must be on the bus: it looks from outside of the sandbox that the daemon is in.
PROGRAMS = ("systemd-run",)


@dataclass
class SecludedRig(MachineRig):
    """The bus leads nowhere for the daemon."""

    hidden: tuple[str, ...] = (BUS,)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in PROGRAMS:
            script = self.machine.root / "usr/local/sbin" / name
            script.write_text(f'#!/bin/sh\nexec nsenter --target 1 --mount /usr/bin/{name} "$@"\n')
            script.chmod(0o755)

    def inside(self, *command: str) -> list[str]:
        hide = " && ".join(f"mount --bind /dev/null {path}" for path in self.hidden)
        return super().inside("unshare", "--mount", "sh", "-c", f'{hide} && exec "$@"', "sh", *command)


def test_it_serves_updates_without_a_loss_and_replaces_what_dies(make_rig: MakeRig) -> None:
    rig = make_rig(SecludedRig)
    rig.start()
    rig.converge()
    (first,) = rig.units("active")
    assert f'"socket": "{PRIVATE}"' in (rig.folder / "daemon.log").read_text()
    with rig.load(streams=1, posts=1) as load:
        rig.edit(TINY, r"--max-num-seqs=\d+", "--max-num-seqs=12")
        rig.converge()
        rig.wait("the old unit to be gone", lambda: len(rig.units()) == 1)
        tally = load.stop()
    assert (tally.lost, tally.refused) == (0, 0), str(tally)
    (second,) = rig.units("active")
    assert second != first
    assert [path.name for path in rig.unit_files()] == [second]
    before = rig.pids()
    rig.machine.run("systemctl", "kill", "--signal=KILL", second)
    rig.wait("another one to serve", lambda: rig.pids() and not rig.pids() & before and rig.is_applied())
    rig.wait("it to serve", rig.serves)
    assert [path.name for path in rig.unit_files()] == rig.units("active")


def test_daemon_that_reaches_no_socket_of_systemd_says_what_is_missing(make_rig: MakeRig) -> None:
    rig = make_rig(SecludedRig, hidden=(PRIVATE, BUS))
    rig.start()
    log = rig.folder / "daemon.log"
    rig.wait("the reason", lambda: "systemd cannot be reached" in log.read_text())
    told = log.read_text()
    assert f"nothing answers at {PRIVATE}" in told
    assert f"nothing answers at {BUS}" in told
    assert "runs as root and sees /run/systemd/private" in told
