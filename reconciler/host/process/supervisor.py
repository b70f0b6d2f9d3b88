"""Replicas as child processes that outlive the daemon and are reattached when it starts again.

Each is the leader of a session of its own. It is written down before it is started, so that a daemon killed in between
finds it again by the marker in its environment.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from reconciler.engines.launch import Launch
from reconciler.engines.limits import ring_bytes, too_large
from reconciler.engines.preflight import engine_version
from reconciler.errors import ReconcileError, Retryable
from reconciler.host.clock import Clock
from reconciler.host.gpus.devices import Gpus
from reconciler.host.inventory import Inventory, ReplicaRecord
from reconciler.host.process import logs, scratch
from reconciler.host.process.children import ChildProcesses, refusal
from reconciler.host.process.exit_watch import ExitWatch
from reconciler.host.process.interpreters import Interpreters
from reconciler.host.process.port_guard import speaks_on_port
from reconciler.host.process.process_discovery import MARKER, ProcessDiscovery, Trace, carries_marker, marker_of
from reconciler.host.supervisor import ProcessState
from reconciler.model import Reason, ReasonCode, ReplicaId, host_reason
from reconciler.system import procfs
from reconciler.system.files import LEAST_BYTES, shared_memory_shortage, unwritable
from reconciler.system.procfs import Identity

KILL_SECONDS = 5.0


class _Scan:
    """What is read at most once while several replicas are examined."""

    @cached_property
    def processes(self) -> ProcessDiscovery:
        return ProcessDiscovery()

    @cached_property
    def listeners(self) -> Mapping[int, set[int]]:
        return procfs.listeners()


class ProcessSupervisor:
    """The supervisor of a `process` target."""

    def __init__(self, inventory: Inventory, gpus: Gpus) -> None:
        self._inventory = inventory
        self._gpus = gpus
        self._clock = Clock()
        self._children = ChildProcesses()
        self._interpreters = Interpreters()
        self._starting: set[ReplicaId] = set()
        self._lock = threading.Lock()
        self._watch: ExitWatch | None = None
        self._wake: Callable[[], None] = lambda: None

    # ------------------------------------------------------------ looking

    def list(self, records: Iterable[ReplicaRecord]) -> Mapping[ReplicaId, ProcessState]:
        """What is there of these replicas. Costs one read per replica while all of them live."""
        look = _Scan()
        return {record.id: self._state(record, look) for record in records}

    def open_to_proxy(self) -> None:
        """It is our own user, as they are."""

    def owns(self, record: ReplicaRecord, pid: int) -> bool:
        if procfs.user_of(pid) != os.geteuid():
            # Its environment may say anything.
            return False
        return any(seen.who.pid == pid for seen in ProcessDiscovery().members(self._trace(record)))

    def is_ours(self, pid: int) -> bool:
        return carries_marker(self._inventory.folder, pid)

    def logs(self, replica: ReplicaId, lines: int) -> tuple[str, ...]:
        return logs.tail(self._log_path(replica), lines)

    def subscribe(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        if self._watch is None:
            self._watch = ExitWatch(self._on_exit, self._trim_logs)

    def close(self) -> None:
        if self._watch is not None:
            self._watch.close()

    def _state(self, record: ReplicaRecord, look: _Scan) -> ProcessState:
        if record.boot != procfs.boot_id():
            return ProcessState(alive=False, rebooted=True, spawned=record.process is not None)
        with self._lock:
            if record.id in self._starting:
                return ProcessState(alive=True)
        main = record.process or look.processes.orphan(self._trace(record))
        if main is not None and self._children.is_running(main):
            if self._watch is not None:
                self._watch.watch(main)
            return ProcessState(alive=True)
        if main is None and not look.processes.members(self._trace(record)):
            # Whichever process has its port or its GPUs, it is not of a replica that never ran.
            return ProcessState(alive=False, spawned=False)
        code = self._children.exit_code(main) if main is not None else None
        releasing = self._gpus.is_releasing(record.lease.gpus, record.stopping_at, self._clock.now())
        return ProcessState(False, self._leftovers(record, look), code, releasing=releasing)

    def _leftovers(self, record: ReplicaRecord, look: _Scan) -> int:
        """What the main process left behind: processes, its port, memory of its GPUs."""
        members = {seen.who.pid for seen in look.processes.members(self._trace(record))}
        count = len(members)
        if not record.socket and record.lease.port in look.listeners:
            holders = procfs.holders(look.listeners[record.lease.port])
            # Another process may have taken the port meanwhile; it does not belong to this replica.
            count += not holders or bool(holders & members)
        known = {who for who in (record.process, *record.members) if who is not None}
        return count + self._gpus.holds(record.lease.gpus, known)

    def _on_exit(self, who: Identity) -> None:
        self._children.is_running(who)
        self._wake()

    def _trim_logs(self) -> None:
        try:
            records = self._inventory.replicas()
        except ReconcileError:
            # The loop reports it; here it only means that logs grow a little longer.
            return
        for record in records:
            logs.trim(self._log_path(record.id))

    # ------------------------------------------------------------ starting

    def recover(self) -> None:
        """Clear away half-made folders and complete the records of orphans."""
        self._inventory.sweep()
        look = _Scan()
        for record in self._inventory.replicas():
            self._completed(record, look)

    def blockers(self, record: ReplicaRecord, launch: Launch) -> tuple[Reason, ...]:
        return tuple(self._blockers(record, launch))

    def _blockers(self, record: ReplicaRecord, launch: Launch) -> Iterator[Reason]:
        python = launch.argv[0]
        if fault := self._interpreters.fault(python):
            yield host_reason(ReasonCode.ENGINE_BROKEN, fault)
        if fault := too_large(launch.argv, self._environment(record, launch), os.sysconf("SC_ARG_MAX")):
            yield host_reason(ReasonCode.ARGUMENT_LIST_TOO_LONG, fault)
        yield from unwritable((str(self._inventory.folder), launch.cwd, launch.env.get("HOME", launch.cwd)))
        if lack := self._lacks_shared_memory(record, launch):
            yield lack

    def _lacks_shared_memory(self, record: ReplicaRecord, launch: Launch) -> Reason | None:
        """Its Secrets' files lie there, and the rings through which vLLM talks to workers in processes of their own."""
        if launch.files:
            least = sum(map(len, launch.files.values())) + LEAST_BYTES
            if lack := shared_memory_shortage(least, "the files of its Secrets"):
                return lack
        if record.spec.resources.gpus == 1 or not engine_version(Path(launch.argv[0])):
            return None
        return shared_memory_shortage(ring_bytes(launch.env), "vLLM and its workers")

    def start(self, record: ReplicaRecord, launch: Launch) -> None:
        """Nothing happens when it runs already. Raises Retryable, or Terminal when it can never be started so."""
        with self._lock:
            if record.id in self._starting:
                return
            self._starting.add(record.id)
        try:
            if not self._is_there(record):
                self._start(record, launch)
        finally:
            with self._lock:
                self._starting.discard(record.id)

    def _is_there(self, record: ReplicaRecord) -> bool:
        known = self._inventory.replica(record.id)
        if known is None or known.boot != procfs.boot_id():
            return False
        look = _Scan()
        known = self._completed(known, look)
        if known.process is not None and self._children.is_running(known.process):
            return True
        if known.process is not None or look.processes.members(self._trace(known)):
            raise Retryable(f"replica {known.id} ended before; what is left of it must be stopped and removed first")
        return False

    def _start(self, record: ReplicaRecord, launch: Launch) -> None:
        if (not launch.socket or speaks_on_port(record)) and record.lease.port in procfs.listeners():
            # If it was written down before, then with this port: without the record another one can be leased.
            scratch.remove(scratch.private_of(self._inventory.folder, record.id))
            self._inventory.forget_replica(record.id)
            raise Retryable(f"replica {record.id}: port {record.lease.port} is taken; the next pass leases another")
        record = replace(
            record,
            boot=procfs.boot_id(),
            process=None,
            argv=launch.argv,
            env_names=tuple(sorted(launch.env)),
            socket=launch.socket,
        )
        self._inventory.write(record)
        try:
            main = self._spawn(record, launch)
        except ReconcileError:
            self._clear(record, launch)
            raise
        self._inventory.change(record.id, process=main)
        if self._watch is not None:
            self._watch.watch(main)

    def _spawn(self, record: ReplicaRecord, launch: Launch) -> Identity:
        scratch.make(Path(launch.cwd))
        if launch.socket:
            scratch.clear_socket(launch.socket)
        if launch.files:
            scratch.write_private(launch.files, scratch.private_of(self._inventory.folder, record.id))
        env = self._environment(record, launch)
        try:
            if "HOME" in launch.env:
                Path(launch.env["HOME"]).mkdir(mode=0o700, parents=True, exist_ok=True)
            log = logs.open_log(self._log_path(record.id))
            try:
                return self._children.spawn(launch.argv, env, launch.cwd, log)
            finally:
                os.close(log)
        except (OSError, ValueError) as error:
            raise refusal(f"replica {record.id}", launch.argv, env, error) from None

    def _clear(self, record: ReplicaRecord, launch: Launch) -> None:
        """There is no process: what was made for it goes, so that its room and its port are free for another."""
        with suppress(ReconcileError):
            scratch.remove(Path(launch.cwd))
            scratch.remove(scratch.private_of(self._inventory.folder, record.id))
        with suppress(ReconcileError):
            self._inventory.forget_replica(record.id)

    def _environment(self, record: ReplicaRecord, launch: Launch) -> dict[str, str]:
        """Nothing of the daemon's own: there may be secrets in it, and settings not meant for engines."""
        marker = marker_of(self._inventory.folder, record.id)
        # Without SPT_NOENV, processes that set their title, as vLLM's do, overwrite the environment we know them by.
        return {**launch.env, "SPT_NOENV": "1", MARKER: marker}

    def _completed(self, record: ReplicaRecord, look: _Scan) -> ReplicaRecord:
        """The record with its process, if that was started but not written down."""
        if record.process is not None or record.boot != procfs.boot_id():
            return record
        orphan = look.processes.orphan(self._trace(record))
        return self._inventory.change(record.id, process=orphan) if orphan else record

    def adopt(self, record: ReplicaRecord) -> ReplicaRecord:
        """Only the daemon starts a child process."""
        return record

    # ------------------------------------------------------------ stopping

    def note(self, record: ReplicaRecord) -> ReplicaRecord:
        """Write down its processes and shared memory, so that they can be found after a sudden death."""
        look = _Scan()
        record = self._completed(record, look)
        members = [seen.who for seen in look.processes.members(self._trace(record))]
        if not members:
            return record
        shared = set(record.shared_memory).union(*(procfs.shared_memory_of(who.pid) for who in members))
        return self._inventory.change(
            record.id,
            members=tuple(sorted(members, key=lambda who: who.pid)),
            shared_memory=tuple(sorted(shared, key=lambda file: file.name)),
        )

    def stop(self, record: ReplicaRecord, force: bool) -> None:
        """SIGTERM to the main process alone: vLLM drains and ends its children itself. `force` is SIGKILL to all."""
        record = self.note(record)
        if force:
            self._kill(record)
        elif record.process is not None and self._children.is_running(record.process):
            procfs.send_signal(record.process, signal.SIGTERM)
        else:
            for seen in ProcessDiscovery().members(self._trace(record)):
                procfs.send_signal(seen.who, signal.SIGTERM)

    def repair(self, record: ReplicaRecord) -> None:
        """A child process has nothing but itself."""

    def remove(self, record: ReplicaRecord) -> None:
        """Delete its folder, its temporary files and the shared memory that no process maps any more."""
        state = self._state(record, _Scan())
        if state.alive or state.leftovers:
            left = "its main process" if state.alive else f"{state.leftovers} leftovers"
            raise Retryable(f"replica {record.id}: {left} still there; it is removed once nothing is left")
        if not state.rebooted:
            scratch.sweep_shared_memory(record.shared_memory)
        scratch.remove(scratch.folder_of(self._inventory.folder, record.id))
        scratch.remove(scratch.private_of(self._inventory.folder, record.id))
        self._inventory.forget_replica(record.id)
        if record.process is not None:
            self._children.forget(record.process)

    def _kill(self, record: ReplicaRecord) -> None:
        """Kill until nothing is left: what forks while it is killed is found in the next round."""
        deadline = time.monotonic() + KILL_SECONDS
        known: set[Identity] = set()
        while True:
            # Written down in every round: what it has mapped by now must be swept later.
            record = self.note(record)
            known.update(record.members)
            living = {who for who in known if self._children.is_running(who)}
            if not living:
                return
            if time.monotonic() > deadline:
                pids = ", ".join(str(who.pid) for who in sorted(living, key=lambda who: who.pid))
                raise Retryable(
                    f"replica {record.id}: processes {pids} survive SIGKILL; they hang in the kernel, most likely in a "
                    "driver or a file system: see /proc/PID/stack"
                )
            for who in living:
                procfs.send_signal(who, signal.SIGKILL)
            time.sleep(0.02)

    # ------------------------------------------------------------ places

    def _trace(self, record: ReplicaRecord) -> Trace:
        return Trace(record, marker_of(self._inventory.folder, record.id), str(self._log_path(record.id).resolve()))

    def _log_path(self, replica: ReplicaId) -> Path:
        return self._inventory.replica_folder(replica) / "log"
