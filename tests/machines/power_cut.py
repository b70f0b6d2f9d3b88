"""Run inside a machine: what a power cut would leave of a unit, as it is started and after it was removed. Prints JSON.

For both of the worst cases: how many bytes would be there of each file.
"""

from __future__ import annotations

import json
from pathlib import Path

from reconciler.cli.shared import log_to_stderr
from reconciler.host.gpus.devices import Gpus
from reconciler.host.inventory import Inventory
from reconciler.host.systemd.supervisor import UnitSupervisor
from reconciler.host.systemd.systemd_api import Systemd
from reconciler.host.systemd.unit_files import UNITS
from tests.crash.power import Disk
from tests.machines.many_units import Sleep
from tests.support.world import eventually, record

STATE = Path("/var/lib/reconciler-power")


class Watching(Systemd):
    """systemd, but first it is noted what the disk is sure to hold."""

    def __init__(self, disk: Disk) -> None:
        super().__init__()
        self.disk = disk
        self.at_start: list[dict[str, int]] = []

    def start(self, name: str) -> None:
        self.at_start = left_by(self.disk)
        super().start(name)


def left_by(disk: Disk) -> list[dict[str, int]]:
    """Without what is half deleted: it is swept when the next daemon takes over."""
    views = (disk.oldest(), disk.newest())
    return [{p: len(data) for p, data in files.items() if "chat" in p and "/.gone-" not in p} for files in views]


def main() -> dict[str, object]:
    log_to_stderr()
    STATE.mkdir()
    disk, inventory, one = Disk(STATE, UNITS), Inventory(STATE), record()
    systemd = Watching(disk)
    units = UnitSupervisor("power", "daemon", inventory, Gpus(()), systemd)
    with disk.watched(lambda: None):
        units.start(one, Sleep())
        units.stop(one, force=True)
        eventually(lambda: not units.list([one])[one.id].alive and not units.list([one])[one.id].leftovers)
        units.remove(one)
    units.close()
    return {"at_start": systemd.at_start, "removed": left_by(disk)}


if __name__ == "__main__":
    print(json.dumps(main()))
