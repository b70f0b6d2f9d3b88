"""Run inside a machine: the supervisor over many units on a real systemd. Prints what it saw, as JSON.

usage: many_units.py COUNT

Where the private socket of systemd is hidden from it, it is the system bus that is tried, or systemctl.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from reconciler.cli.shared import log_to_stderr
from reconciler.host.gpus.devices import Gpus
from reconciler.host.inventory import Inventory, ReplicaRecord
from reconciler.host.systemd import bus
from reconciler.host.systemd.supervisor import UnitSupervisor
from reconciler.host.systemd.systemd_api import Systemd
from reconciler.model import Lease, ReplicaId, ServiceId
from tests.support.world import eventually, record

STATE = Path("/var/lib/reconciler-many")


@dataclass(frozen=True)
class Sleep:
    """Something to run that costs nothing."""

    argv: tuple[str, ...] = ("/bin/sleep", "infinity")
    env: dict[str, str] = field(default_factory=lambda: {"HOME": "/var/cache/reconciler/many", "HF_TOKEN": "hunter2"})
    cwd: str = "/tmp"
    hidden: frozenset[str] = frozenset()
    files: dict[str, bytes] = field(default_factory=lambda: {"/run/reconciler-secrets/0/key": b"hunter3"})
    mounts: dict[str, str] = field(default_factory=dict)
    pins: dict[str, int] = field(default_factory=dict)
    image: str = ""
    socket: str = ""


class Counter:
    """Counts round trips, a batch of questions sent together is one."""

    def __init__(self) -> None:
        self.count = 0
        for kind, name in ((bus.Bus, "call"), (bus.Bus, "properties")):
            self._wrap(kind, name)

    def _wrap(self, kind: type, name: str) -> None:
        real = getattr(kind, name)

        def counted(*arguments: object) -> object:
            self.count += name != "properties" or bool(arguments[1])
            return real(*arguments)

        setattr(kind, name, counted)


def make(count: int) -> list[ReplicaRecord]:
    one = record()
    names = [ServiceId("default", f"s{n}") for n in range(count)]
    return [replace(one, id=ReplicaId(name, "aaaaaaaa-0"), lease=Lease(30000 + n)) for n, name in enumerate(names)]


def supervisor(systemd: Systemd) -> UnitSupervisor:
    return UnitSupervisor("many", "daemon", Inventory(STATE), Gpus(()), systemd)


def take_away(units: UnitSupervisor, one: ReplicaRecord) -> None:
    units.stop(one, force=True)
    eventually(lambda: not (state := units.list([one])[one.id]).alive and not state.leftovers)
    units.remove(one)


def main(count: int) -> dict[str, object]:
    log_to_stderr()
    shutil.rmtree(STATE, ignore_errors=True)
    systemd = Systemd()
    news, counter, units = threading.Event(), Counter(), supervisor(systemd)
    units.subscribe(news.set)
    for each in make(count):
        units.start(each, Sleep())
    records = Inventory(STATE).replicas()
    first, *others = records
    units.list(records)
    counter.count, begun = 0, time.thread_time()
    states = units.list(records)
    trips = counter.count
    said = {
        "socket": str(systemd.socket),
        "trips": trips,
        "alive": sum(state.alive for state in states.values()),
        "drifted": [state.drift for state in states.values() if state.drift],
        "cpu_ms": round(1000 * (time.thread_time() - begun), 1),
        "written": sum(each.process is not None for each in records),
    }
    (pid,) = {each.process.pid for each in records if each.id == first.id and each.process}
    said["environment"] = Path(f"/proc/{pid}/environ").read_text().count("HF_TOKEN=hunter2")
    said["secret"] = Path(f"/proc/{pid}/root/run/reconciler-secrets/0/key").read_text()
    said["shown"] = subprocess.run(
        ["systemctl", "show", "reconciler-many.*"], capture_output=True, text=True
    ).stdout.count("hunter")
    news.clear()
    subprocess.run(["kill", "-9", str(pid)], check=True)
    said["woken"] = news.wait(10)
    eventually(lambda: not units.list(records)[first.id].alive)
    said["dead"] = (units.list(records)[first.id].exit_code, units.list(records)[first.id].leftovers)
    take_away(units, first)
    said["left"] = [path.name for path in Path("/etc/systemd/system").rglob("*many.default.s0.*")]
    news.clear()
    subprocess.run(["systemctl", "daemon-reexec"], check=True)
    said["woken_by_reexec"] = news.wait(10)
    said["after_reexec"] = sum(state.alive for state in units.list(others).values())
    units.close()
    # A daemon that lost all it knew takes it from the units.
    subprocess.run(["rm", "-rf", str(STATE / "replicas")], check=True)
    successor = supervisor(Systemd())
    successor.recover()
    found = Inventory(STATE).replicas()
    said["recovered"] = [each.id for each in found] == [each.id for each in others]
    said["alive_again"] = sum(state.alive for state in successor.list(found).values())
    for each in found:
        take_away(successor, each)
    successor.close()
    return said


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]))))
