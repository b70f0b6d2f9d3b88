"""The supervisor of a `systemd` target: every replica is a unit, and systemd keeps it alive.

The record is written first, then the unit, then systemd is called. A unit that serves needs neither us nor git: systemd
restarts it when it dies and starts it again after a reboot; when we are back, we take over what is there.
"""

from __future__ import annotations

import os
import pwd
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from reconciler.engines.launch import Launch
from reconciler.errors import ReconcileError, Retryable, Terminal, Unstartable
from reconciler.host.clock import Clock
from reconciler.host.gpus.devices import Gpus
from reconciler.host.inventory import Inventory, ReplicaRecord
from reconciler.host.process import scratch
from reconciler.host.process.interpreters import Interpreters
from reconciler.host.process.logs import tail_journal
from reconciler.host.process.port_guard import PortGuard, speaks_on_port
from reconciler.host.process.scratch import open_to
from reconciler.host.supervisor import ProcessState
from reconciler.host.systemd.podman import PODMAN, remove_container
from reconciler.host.systemd.replica_unit_files import ReplicaUnitFiles
from reconciler.host.systemd.systemd_api import Run, Systemd, UnitState, is_ending, is_over, is_up
from reconciler.host.systemd.unit import (
    CACHES,
    replica_of,
    unit_name,
)
from reconciler.host.systemd.unit_files import (
    UNITS,
    delete_unit,
    sync_links,
    was_written_after,
)
from reconciler.model import Reason, ReasonCode, ReplicaId, Restart, host_reason
from reconciler.system import procfs
from reconciler.system.files import unwritable
from reconciler.system.procfs import Identity

_NEVER = Run()
_FORK_SECONDS, _PODMAN_SECONDS = 2.0, 10.0
_STARTING = "activating"
_LONGEST_NAME = 255


class UnitSupervisor:
    """`target` names the units, `user` runs them. They see nothing of `closed`."""

    def __init__(
        self,
        target: str,
        user: str,
        inventory: Inventory,
        gpus: Gpus,
        systemd: Systemd,
        closed: tuple[Path, ...] = (),
    ) -> None:
        self._target = target
        self._user = user
        self._inventory = inventory
        self._gpus = gpus
        self._systemd = systemd
        self._interpreters = Interpreters(user)
        self._clock = Clock()
        self._files = ReplicaUnitFiles(target, user, inventory, gpus, closed)
        self._guard = PortGuard(self.owns)

    # ------------------------------------------------------------ looking

    def list(self, records: Iterable[ReplicaRecord]) -> Mapping[ReplicaId, ProcessState]:
        """What is there of these replicas, in two round trips: one question about all units, and one about news."""
        records = tuple(records)
        self._guard.keep({record.id for record in records})
        if not records:
            return {}
        names = {record.id: self._name(record) for record in records}
        units = self._systemd.units(self._prefix)
        runs = self._systemd.runs(units[name] for name in names.values() if name in units)
        return {r.id: self._state(r, units.get(names[r.id]), runs.get(names[r.id], _NEVER)) for r in records}

    def owns(self, record: ReplicaRecord, pid: int) -> bool:
        return pid in self._systemd.processes(self._name(record))

    def is_ours(self, pid: int) -> bool:
        parts = (part for path in procfs.read_cgroups(pid) for part in path.split("/"))
        return any(replica_of(self._target, part) for part in parts)

    def logs(self, replica: ReplicaId, lines: int) -> tuple[str, ...]:
        record = self._inventory.replica(replica)
        since = record.created_at if record else 0.0
        return tail_journal(unit_name(self._target, replica), lines, since)

    def subscribe(self, wake: Callable[[], None]) -> None:
        self._systemd.subscribe(self._prefix, wake)

    def close(self) -> None:
        self._systemd.close()

    @property
    def _prefix(self) -> str:
        return f"reconciler-{self._target}."

    def _name(self, record: ReplicaRecord) -> str:
        return unit_name(self._target, record.id)

    def _state(self, record: ReplicaRecord, unit: UnitState | None, run: Run) -> ProcessState:
        if (again := self._restarted(record, unit, run)) is not None:
            return again
        is_ours = record.process is None or record.process == _identity(unit, run)
        spawned = record.process is not None or run.started > 0
        if is_up(unit, run) and (is_ours or record.boot != procfs.boot_id()):
            return ProcessState(alive=True, drift=self._files.drift(record))
        if is_over(unit):
            rebooted = record.boot != procfs.boot_id()
            # Of a process that is gone, GPUs may still hold memory for a moment.
            if rebooted:
                return ProcessState(False, 0, run.exit_code, rebooted, spawned)
            held = self._gpus.holds(record.lease.gpus, {*record.members})
            releasing = spawned and self._gpus.is_releasing(record.lease.gpus, record.stopping_at, self._clock.now())
            by_hand = _is_stopped_by_hand(record, unit) and spawned
            drift = f"{self._name(record)} was stopped manually" if by_hand else ""
            return ProcessState(False, held, run.exit_code, rebooted, spawned, drift, releasing=releasing)
        # It died: systemd is about to start it again, has done so already, or ends what it left behind.
        return ProcessState(False, leftovers=1, exit_code=run.exit_code)

    def _restarted(self, record: ReplicaRecord, unit: UnitState | None, run: Run) -> ProcessState | None:
        """What remains when its process is ended, or replaced, by someone else; None if it was not."""
        if unit is None or record.process is None or record.boot != procfs.boot_id():
            return None
        if record.draining_at is not None or record.stopping_at is not None:
            # It was on its way out.
            return None
        if is_ending(unit):
            found = Restart.ENDING if record.ready_at is not None else None
            return ProcessState(alive=True, drift=self._files.drift(record), restarted=found, between=True)
        if not run.pid or not is_up(unit, run) or record.process == _identity(unit, run):
            return None
        if unit.active == _STARTING:
            return ProcessState(alive=True, between=True)
        if self._files.drift(record) or was_written_after(UNITS / self._name(record), run):
            # It may have been started in another way than git says.
            return None
        found = Restart.CRASHED if run.restarts else Restart.BY_HAND
        listens = self._guard.listens(record)
        return ProcessState(alive=True, restarted=found, listens=listens)

    # ------------------------------------------------------------ taking over

    def recover(self) -> None:
        """Take over units that served without a daemon:

        their processes may have changed, and their records may be gone.
        """
        self._inventory.sweep()
        known = {record.id: record for record in self._inventory.replicas()}
        for replica, path in self._files.present().items():
            if replica not in known and (found := self._files.record_in(path)) is not None:
                ready = self._clock.now() if self._guard.listens(found) else None
                self._inventory.write(replace(found, boot="", created_at=self._clock.now(), ready_at=ready))
        records = self._inventory.replicas()
        if not records:
            return
        units = self._systemd.units(self._prefix)
        known_units = {r.id: units[self._name(r)] for r in records if self._name(r) in units}
        runs = self._systemd.runs(known_units.values())
        for record in records:
            unit = known_units.get(record.id)
            if unit is not None and is_up(unit, runs[unit.name]):
                self._take_over(record, _identity(unit, runs[unit.name]))
        same = (r for r in records if r.process and r.process == _identity_in(known_units.get(r.id), runs))
        if self._files.bring_up_to_date(same):
            self._systemd.reload()

    def _take_over(self, record: ReplicaRecord, who: Identity | None) -> None:
        here = record.boot == procfs.boot_id()
        if here and record.process is not None:
            # Whether another process may go on in its place is decided by a pass.
            return
        changed = replace(record, boot=procfs.boot_id(), process=who, members=())
        if not here and not self._guard.listens(record):
            # It has to load its model again, and gets the time for that.
            changed = replace(changed, ready_at=None, created_at=self._clock.now())
        self._inventory.write(changed)

    # ------------------------------------------------------------ starting

    def start(self, record: ReplicaRecord, launch: Launch) -> None:
        """Nothing happens when it runs already. Raises Retryable, or Terminal when it can never be started so."""
        self._check(record, launch)
        if self._is_there(record):
            return
        if (not launch.socket or speaks_on_port(record)) and record.lease.port in procfs.listeners():
            # If it was written down before, then with this port: without the record another one can be leased.
            self._delete(record)
            raise Retryable(f"replica {record.id}: port {record.lease.port} is taken; the next pass leases another")
        names = tuple(sorted(launch.env))
        record = replace(record, process=None, argv=launch.argv, env_names=names, image=launch.image)
        record = replace(record, socket=launch.socket)
        self._inventory.write(record)
        name = self._name(record)
        try:
            self._files.write(record, launch)
        except ReconcileError:
            # Nothing runs: its room is free for another.
            with suppress(ReconcileError):
                self._delete(record)
            raise
        self._systemd.install(name)
        sync_links()
        self._systemd.start(name)
        self._await_process(record)

    def _await_process(self, record: ReplicaRecord) -> None:
        """Write down who it is as soon as it is there; no longer than a fork takes, or podman."""
        deadline = time.monotonic() + (_PODMAN_SECONDS if record.image else _FORK_SECONDS)
        while time.monotonic() < deadline:
            unit, run = self._look(record)
            if unit is not None and run.started and (unit.active != _STARTING or unit.sub == "auto-restart"):
                self._inventory.change(record.id, process=_identity(unit, run))
                return
            time.sleep(0.02)

    def _check(self, record: ReplicaRecord, launch: Launch) -> None:
        if len(self._name(record)) > _LONGEST_NAME:
            raise Unstartable(self._too_long(record))
        if lacking := next(self._lacking(launch), None):
            raise Terminal(lacking.message)

    def _lacking(self, launch: Launch) -> Iterator[Reason]:
        if launch.image and not os.access(PODMAN, os.X_OK):
            yield host_reason(ReasonCode.PODMAN_NOT_FOUND, f"{PODMAN} cannot be run; install podman")
        if not self._has_user():
            hint = f"create it (useradd --system {self._user}), or set targets[].user"
            yield host_reason(ReasonCode.USER_NOT_FOUND, f"no user {self._user}; {hint}")
        elif not launch.image and (fault := self._interpreters.fault(launch.argv[0])):
            yield host_reason(ReasonCode.ENGINE_BROKEN, fault)

    def _too_long(self, record: ReplicaRecord) -> str:
        return f"{self._name(record)} is longer than systemd allows ({_LONGEST_NAME}); use shorter names"

    def _has_user(self) -> bool:
        with suppress(KeyError):
            return bool(pwd.getpwnam(self._user))
        return False

    def blockers(self, record: ReplicaRecord, launch: Launch) -> tuple[Reason, ...]:
        if len(self._name(record)) > _LONGEST_NAME:
            raise Unstartable(self._too_long(record))
        found = [*self._lacking(launch)]
        if self._has_user():
            found += self._files.too_large(record, launch)
        return (*found, *unwritable((str(self._inventory.folder), str(UNITS), CACHES)))

    def open_to_proxy(self) -> None:
        open_to(self._files.proxy_group(), (record.socket for record in self._inventory.replicas() if record.socket))

    def _is_there(self, record: ReplicaRecord) -> bool:
        known = self._inventory.replica(record.id)
        if known is None or known.boot != procfs.boot_id():
            return False
        state = self.list([known])[known.id]
        if not state.alive and state.spawned:
            raise Retryable(f"replica {known.id} ended before; what is left of it must be stopped and removed first")
        return state.alive

    def repair(self, record: ReplicaRecord) -> None:
        """Write the unit's file again as it was, and enable it for a reboot. Its process keeps running."""
        self._files.repair(record)
        self._systemd.install(self._name(record))
        sync_links()

    # ------------------------------------------------------------ stopping

    def note(self, record: ReplicaRecord) -> ReplicaRecord:
        """Record its processes, so that their memory on GPUs is recognised."""
        unit, run = self._look(record)
        if unit is None:
            return record
        if unit.active == _STARTING:
            return record
        found = (procfs.identify(pid) for pid in self._systemd.processes(unit.name))
        members = tuple(sorted((who for who in found if who is not None), key=lambda who: who.pid))
        if not members:
            return record
        return self._inventory.change(record.id, process=_identity(unit, run) or record.process, members=members)

    def adopt(self, record: ReplicaRecord) -> ReplicaRecord:
        """Its main process is what the unit runs now."""
        unit, run = self._look(record)
        who = _identity(unit, run) if is_up(unit, run) else None
        return record if who in (None, record.process) else replace(record, process=who, members=())

    def _look(self, record: ReplicaRecord) -> tuple[UnitState | None, Run]:
        name = self._name(record)
        unit = self._systemd.units(name.removesuffix(".service")).get(name)
        return unit, self._systemd.runs([unit])[name] if unit is not None else _NEVER

    def stop(self, record: ReplicaRecord, force: bool) -> None:
        """SIGTERM to the main process, and after the unit's timeout SIGKILL to all. `force` is SIGKILL at once."""
        self.note(record)
        self._systemd.stop(self._name(record))
        if force:
            self._systemd.kill(self._name(record))

    def remove(self, record: ReplicaRecord) -> None:
        """Delete its unit and its record."""
        state = self.list([record])[record.id]
        if state.alive or state.leftovers:
            raise Retryable(f"replica {record.id}: its unit still runs; it is removed once nothing is left")
        self._systemd.stop(self._name(record))
        self._delete(record)

    def _delete(self, record: ReplicaRecord) -> None:
        name = self._name(record)
        delete_unit(self._systemd, name)
        if record.image:
            # What killed it may also have killed its cleanup.
            remove_container(name.removesuffix(".service"))
        if record.socket:
            scratch.remove(Path(record.socket).parent)
        self._inventory.forget_replica(record.id)


def _identity(unit: UnitState | None, run: Run) -> Identity | None:
    """Who the main process is; systemd knows its start to the microsecond. While podman starts, it is not there yet."""
    if not run.pid or unit is None or unit.active == _STARTING:
        return None
    return Identity(run.pid, run.started, procfs.boot_id())


def _identity_in(unit: UnitState | None, runs: Mapping[str, Run]) -> Identity | None:
    return _identity(unit, runs[unit.name]) if unit is not None else None


def _is_stopped_by_hand(record: ReplicaRecord, unit: UnitState | None) -> bool:
    """We did not stop it, and systemd, which starts it again whenever it ends, did not give it up."""
    return record.stopping_at is None and (unit is None or unit.active == "inactive")
