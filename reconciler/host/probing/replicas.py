"""What there is of each replica now: its process, what it answered, and what the proxy says of it.

The time that it has to get ready does not count while it cannot run, nor while no daemon watches.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from reconciler.engines.last_words import fatal_reason
from reconciler.errors import ReconcileError
from reconciler.fault_isolation import Faults
from reconciler.host.inventory import ReplicaRecord
from reconciler.host.probing.probing import Probes, ProbeState
from reconciler.host.routing.envoy import ProxyState
from reconciler.host.supervisor import ProcessState, Supervisor
from reconciler.model import (
    Replica,
    ReplicaId,
    Restart,
)
from reconciler.system import procfs

_CGROUPS = Path("/sys/fs/cgroup")
_STOPPED = frozenset("Tt")
PAUSED = "its process is paused (SIGSTOP, or a frozen cgroup)"


class Pauses:
    """Replicas that start, as one daemon sees them: what was before it started, was not watched."""

    def __init__(self, began: float) -> None:
        self._began = began
        self._paused: dict[ReplicaId, float] = {}

    def look(self, records: Iterable[ReplicaRecord], now: float) -> frozenset[ReplicaId]:
        """Which of those that are not ready yet cannot run now?"""
        waiting = [one for one in records if one.ready_at is None and one.stopping_at is None and one.process]
        found = frozenset(one.id for one in waiting if one.process and is_paused(one.process.pid))
        known = {one.id for one in waiting}
        self._paused = {key: at for key, at in self._paused.items() if key in known} | dict.fromkeys(found, now)
        return found

    def watched_since(self, replica: ReplicaId) -> float:
        return max(self._began, self._paused.get(replica, 0.0))


def is_paused(pid: int) -> bool:
    """Is it stopped by a signal, or frozen with its cgroup?"""
    stat = procfs.read_stat(pid)
    if stat is None or stat.state in _STOPPED:
        return stat is not None
    return any(_is_frozen(path) for path in procfs.read_cgroups(pid))


def _is_frozen(path: str) -> bool:
    try:
        return "frozen 1" in (_CGROUPS / path.lstrip("/") / "cgroup.events").read_text()
    except OSError:
        return False


_SETTLE = 0.3
_LAST_WORDS = 60
# A traceback through several processes is long; the line that counts may stand far above its end.
_LINES_TO_BLAME = 400


class Replicas:
    """Of one host. One that makes us raise is noted in `faults`, and is still there."""

    def __init__(self, supervisor: Supervisor, probes: Probes, pauses: Pauses, ready_timeout: float) -> None:
        self._supervisor = supervisor
        self._probes = probes
        self._pauses = pauses
        self._ready_timeout = ready_timeout
        self._dead: frozenset[str] = frozenset()

    def all(
        self,
        records: Iterable[ReplicaRecord],
        states: Mapping[ReplicaId, ProcessState],
        proxy: ProxyState,
        now: float,
        faults: Faults,
    ) -> tuple[Replica, ...]:
        """As observed, in the order of their records."""
        records = tuple(records)
        paused = self._pauses.look(records, now)
        return tuple(
            self._replica_safely(
                record, states[record.id], proxy, now, PAUSED if record.id in paused else record.again, faults
            )
            for record in records
        )

    def states(self, records: Sequence[ReplicaRecord], faults: Faults) -> Mapping[ReplicaId, ProcessState]:
        """What is there of each. Those that die together do not do so in one moment: a new death is let settle."""
        states = self._list(records, faults)
        dead = frozenset(_run_of(one) for one in records if not states[one.id].alive and one.stopping_at is None)
        if not dead <= self._dead:
            time.sleep(_SETTLE)
            states = self._list(records, faults)
        self._dead = dead
        return states

    def _list(self, records: Sequence[ReplicaRecord], faults: Faults) -> Mapping[ReplicaId, ProcessState]:
        """Where one raises, each is examined by itself; one of unknown state counts as alive."""
        try:
            return self._supervisor.list(records)
        except ReconcileError:
            raise
        except Exception as error:
            if len(records) > 1:
                return {key: state for one in records for key, state in self._list((one,), faults).items()}
            faults.note(records[0].id.service, error, records[0].origin)
            return {records[0].id: ProcessState(alive=True)}

    def _replica_safely(
        self, record: ReplicaRecord, state: ProcessState, proxy: ProxyState, now: float, again: str, faults: Faults
    ) -> Replica:
        """One that makes us raise is still there, and holds what it holds."""
        try:
            return self._replica(record, state, proxy, now, again)
        except Exception as error:
            faults.note(record.id.service, error, record.origin)
            return Replica(
                id=record.id,
                digest=record.digest,
                spec=record.spec,
                origin=record.origin,
                lease=record.lease,
                created_at=record.created_at,
                alive=state.alive,
                leftovers=state.leftovers,
                ready_at=record.ready_at,
                draining_at=record.draining_at,
                stopping_at=record.stopping_at,
                translation=record.translation,
                socket=record.socket,
            )

    def _replica(
        self, record: ReplicaRecord, state: ProcessState, proxy: ProxyState, now: float, again: str
    ) -> Replica:
        probe_state = self._probes.probe_state(record.id)
        since = max(record.created_at, self._pauses.watched_since(record.id))
        late = record.ready_at is None and now - since > self._ready_timeout
        failed = state.spawned and (not state.alive or probe_state.healthy is False or late)
        failed = failed or state.restarted is Restart.CRASHED
        words = self._supervisor.logs(record.id, _LINES_TO_BLAME) if failed else ()
        at_proxy = proxy.endpoint(record.address)
        return Replica(
            id=record.id,
            digest=record.digest,
            spec=record.spec,
            origin=record.origin,
            lease=record.lease,
            created_at=record.created_at,
            parsed=record.parsed,
            alive=state.alive,
            leftovers=state.leftovers,
            releasing=state.releasing,
            exit_code=state.exit_code,
            ready_now=_is_ready(record, state, probe_state),
            ready_at=record.ready_at,
            draining_at=record.draining_at,
            stopping_at=record.stopping_at,
            healthy=probe_state.healthy,
            routed=at_proxy.routed,
            in_flight=at_proxy.in_flight if probe_state.silence else probe_state.in_flight,
            quiet_samples=probe_state.quiet_samples,
            rebooted=state.rebooted,
            spawned=state.spawned,
            drift=state.drift,
            run=_run_of(record),
            restarted=state.restarted,
            again=again,
            watched_since=self._pauses.watched_since(record.id),
            image=record.image,
            translation=record.translation,
            last_words=words[-_LAST_WORDS:],
            blame=fatal_reason(words) or "",
            at_proxy=at_proxy.in_flight,
            most_in_flight=probe_state.most_in_flight,
            silence=probe_state.silence,
            silent_why=probe_state.silent_why,
            socket=record.socket,
            stranger=probe_state.stranger,
        )


def _is_ready(record: ReplicaRecord, state: ProcessState, probe_state: ProbeState) -> bool:
    if state.between or state.restarted is not None:
        # What was answered was answered by another process.
        return state.listens
    # Once written down it stays true until it is known to be false: a daemon that just came up has not asked.
    return probe_state.ready or (record.ready_at is not None and state.alive and probe_state.healthy is not False)


def _run_of(record: ReplicaRecord) -> str:
    who = record.process
    return f"{record.id.serial} {f'{who.pid}.{who.started}' if who else record.created_at}"
