"""Run inside a machine: replicas that others restart, on a real systemd. Prints what the supervisor saw, as JSON."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from reconciler.cli.shared import log_to_stderr
from reconciler.host.gpus.devices import Gpus
from reconciler.host.inventory import Inventory, ReplicaRecord
from reconciler.host.process.port_guard import PortGuard, PortHolds
from reconciler.host.supervisor import ProcessState
from reconciler.host.systemd.supervisor import UnitSupervisor
from reconciler.host.systemd.systemd_api import Systemd
from reconciler.host.systemd.unit import unit_name
from reconciler.host.systemd.unit_files import UNITS
from reconciler.model import Lease, ReplicaId, ServiceId
from reconciler.system import procfs
from tests.machines.many_units import Sleep
from tests.support.world import errno_of_a_stranger, eventually, record

STATE = Path("/var/lib/reconciler-restarts")
# It listens, as an engine does that has got ready; else its own unit would kill it at once.
STUBBORN = (
    "import signal, socket, sys\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "listener = socket.create_server(('127.0.0.1', int(sys.argv[1])))\n"
    "signal.pause()\n"
)
# As vLLM listens.
SHARING = (
    "import signal, socket, sys\n"
    "listener = socket.create_server(('127.0.0.1', int(sys.argv[1])), reuse_port=True)\n"
    "signal.pause()\n"
)


class World:
    """One replica after the other."""

    def __init__(self) -> None:
        self.inventory = Inventory(STATE)
        self.supervisor = UnitSupervisor("again", "daemon", self.inventory, Gpus(()), Systemd())
        self.count = 0

    def start(self, launch: Callable[[int], Sleep]) -> ReplicaRecord:
        """A replica that was ready, and is started again at once when it dies. `launch` is told its port."""
        self.count += 1
        replica = ReplicaId(ServiceId("default", f"s{self.count}"), "aaaaaaaa-0")
        begun = replace(record(), id=replica, lease=Lease(30100 + self.count))
        folder = Path("/run/systemd/system") / f"{unit_name('again', replica)}.d"
        folder.mkdir(parents=True)
        (folder / "soon.conf").write_text("[Service]\nRestartSec=100ms\n")
        self.supervisor.start(begun, launch(begun.lease.port))
        return self.inventory.change(replica, ready_at=1.0)

    def look(self, one: ReplicaRecord) -> ProcessState:
        (known,) = [each for each in self.inventory.replicas() if each.id == one.id]
        return self.supervisor.list([known])[known.id]

    def wait(self, one: ReplicaRecord, restart: str) -> ProcessState:
        eventually(lambda: self.look(one).restarted == restart)
        return self.look(one)

    def adopt(self, one: ReplicaRecord) -> ProcessState:
        self.inventory.write(self.supervisor.adopt(one))
        return self.look(one)


def idle(_port: int) -> Sleep:
    return Sleep()


def stubborn(port: int) -> Sleep:
    return Sleep((sys.executable, "-c", STUBBORN, str(port)))


def sharing(port: int) -> Sleep:
    return Sleep((sys.executable, "-c", SHARING, str(port)))


def systemctl(word: str, one: ReplicaRecord, *options: str) -> None:
    subprocess.run(["systemctl", word, *options, unit_name("again", one.id)], check=True)


def main() -> dict[str, object]:
    log_to_stderr()
    world = World()
    one = world.start(idle)
    assert one.process
    os.kill(one.process.pid, signal.SIGKILL)
    said: dict[str, object] = {"crashed": told(world.wait(one, "crashed, and started again without us"))}
    said["crash adopted"] = told(world.adopt(one))
    systemctl("restart", one)
    said["restarted"] = told(world.wait(one, "restarted manually"))
    said["restart adopted"] = told(world.adopt(one))
    return said | ending(world) | edited(world) | held(world)


def ending(world: World) -> dict[str, object]:
    one = world.start(stubborn)
    eventually(lambda: procfs.listens(one.address))
    systemctl("restart", one, "--no-block")
    said: dict[str, object] = {"ending": told(world.wait(one, "stopped or restarted manually"))}
    # It is written down that it has to get ready again: nothing is left to be decided.
    one = world.inventory.change(one.id, ready_at=None)
    said["noted"] = told(world.look(one))
    systemctl("kill", one, "--signal=KILL")
    said["ended"] = told(world.wait(one, "restarted manually"))
    return said


def edited(world: World) -> dict[str, object]:
    one = world.start(idle)
    path = UNITS / unit_name("again", one.id)
    text = path.read_text()
    path.write_text(text + "\n[Service]\nNice=5\n")
    subprocess.run(["systemctl", "daemon-reload"], check=True)
    systemctl("restart", one)
    said: dict[str, object] = {"edited": told(world.look(one))}
    world.supervisor.repair(one)
    said["put back"] = told(world.look(one))
    systemctl("restart", one)
    said["restarted as it was"] = told(world.look(one))
    return said


def held(world: World) -> dict[str, object]:
    """Its port is the user's of the unit while nothing listens there, and the unit's next process listens again."""
    one, guard = world.start(sharing), PortGuard(world.supervisor.owns, PortHolds())
    eventually(lambda: guard.listeners(one))
    before = guard.listeners(one)
    assert one.process
    os.kill(one.process.pid, signal.SIGKILL)
    eventually(lambda: not procfs.listens(one.address))
    port = one.lease.port
    refused = errno_of_a_stranger(lambda: socket.create_server(("127.0.0.1", port), reuse_port=True))
    eventually(lambda: guard.listeners(one) not in (frozenset(), before))
    return {"held": errno.errorcode[refused], "back": told(world.wait(one, "crashed, and started again without us"))}


def told(state: ProcessState) -> list[object]:
    return [state.alive, state.restarted, state.between, state.leftovers]


if __name__ == "__main__":
    print(json.dumps(main()))
