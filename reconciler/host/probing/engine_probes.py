"""Which replicas are asked while they run, how to talk to each of them, and what vLLM and the proxy are asked."""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from reconciler.engines.arguments import ends_tls, speaks_grpc
from reconciler.engines.grpc_probe import GrpcProbe
from reconciler.engines.probe import Probe, Vitals
from reconciler.engines.replica_connection import ForeignListener
from reconciler.errors import ReconcileError, Retryable
from reconciler.fault_isolation import Faults
from reconciler.host.inventory import ReplicaRecord
from reconciler.host.probing.probing import Subject, Topic
from reconciler.host.process.port_guard import PortGuard, listens_on_port
from reconciler.host.routing.envoy import EnvoyProxy, ProxyState
from reconciler.host.supervisor import ProcessState
from reconciler.model import ReplicaId, Routed
from reconciler.secrets.store import secret_ref
from reconciler.system import procfs

_SURVEY_SECONDS = 10.0


class EngineProbes:
    """Questions to vLLM servers behind one proxy."""

    def __init__(self, proxy: EnvoyProxy) -> None:
        self._proxy = proxy
        self._lock = threading.Lock()
        self._survey: ProxyState | None = None
        self._surveyed_at = float("-inf")

    def stranger(self, subject: Subject) -> str:
        try:
            if subject.guard is not None:
                subject.guard()
        except ForeignListener as found:
            return str(found)
        except Retryable:
            # Unknown: a probe will report why.
            return ""
        return ""

    def is_ready(self, subject: Subject) -> tuple[bool, bool | None]:
        found = _probe(subject).check(subject.address, subject.model, subject.api_key)
        return found.ready, found.healthy

    def is_healthy(self, subject: Subject) -> bool | None:
        return _probe(subject).health(subject.address)

    def vitals(self, subject: Subject) -> Vitals | None:
        return _probe(subject).vitals(subject.address)

    def answers(self, subject: Subject, timeout: float) -> bool:
        return _probe(subject).answers(subject.address, subject.model, subject.api_key, timeout)

    def has_lost_socket(self, subject: Subject) -> bool:
        """What cannot be checked is not known to be gone."""
        if isinstance(subject.address, int):
            return False
        try:
            return not stat.S_ISSOCK(os.stat(subject.address).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError:
            return False

    def is_paused(self, subject: Subject) -> bool:
        return _probe(subject).is_paused(subject.address)

    def is_waited_for(self, subject: Subject) -> bool:
        """By a recent answer of the proxy: all callers share it."""
        with self._lock:
            if time.monotonic() - self._surveyed_at > _SURVEY_SECONDS:
                self._survey, self._surveyed_at = self._proxy.observe(), time.monotonic()
        return bool(self._survey and self._survey.endpoint(subject.address).in_flight)

    def cpu_seconds(self, subject: Subject, *, of_server: bool) -> float:
        if not isinstance(subject.started, procfs.Identity):
            return 0.0
        server = subject.started.pid
        if of_server:
            return procfs.cpu_seconds(server)
        return sum(procfs.cpu_seconds(pid) for pid in procfs.descendants(server))

    def in_flight(self, subject: Subject) -> tuple[Routed, int | None]:
        """A request that the proxy holds is in the engine too, most of the time: the larger count is the better one."""
        at_proxy = self._proxy.observe().endpoint(subject.address)
        in_engine = _probe(subject).in_flight(subject.address)
        if at_proxy.in_flight is None or in_engine is None:
            return at_proxy.routed, None
        return at_proxy.routed, max(at_proxy.in_flight, in_engine)


def _probe(subject: Subject) -> Probe | GrpcProbe:
    if subject.grpc:
        return GrpcProbe(guard=subject.guard)
    return Probe(tls=subject.tls, guard=subject.guard)


class ProbeTargets:
    """Works each one out once for as long as its record stays. `find_key` says which key requests must carry.

    `guard` looks at who listens on the port of those that have no socket.
    """

    def __init__(self, find_key: Callable[[ReplicaRecord], str | None], guard: PortGuard) -> None:
        self._find_key = find_key
        self._guard = guard
        self._known: dict[ReplicaId, tuple[ReplicaRecord, Subject]] = {}

    def of(
        self, records: Iterable[ReplicaRecord], states: Mapping[ReplicaId, ProcessState], faults: Faults
    ) -> list[Subject]:
        """The replicas that can be probed: alive, and not asked to end. Those that raise are left out."""
        self._guard.keep(states)
        before, self._known = self._known, {}
        found = []
        for record in records:
            state = states[record.id]
            if not state.alive or state.between or record.stopping_at is not None:
                continue
            known = before.get(record.id)
            if known is None or known[0] is not record:
                try:
                    known = (record, self._subject(record))
                except ReconcileError:
                    raise
                except Exception as error:
                    faults.note(record.id.service, error, record.origin)
                    continue
            if not any(secret_ref(each) for each in record.spec.env):
                # What a Secret holds may be known a moment later only.
                self._known[record.id] = known
            found.append(known[1])
        return found

    def _subject(self, record: ReplicaRecord) -> Subject:
        return Subject(
            id=record.id,
            address=record.address,
            topic=_topic(record),
            started=record.process,
            model=record.id.service.name,
            tls=ends_tls(record.spec.command_line),
            grpc=speaks_grpc(record.spec.command_line),
            api_key=self._find_key(record),
            guard=partial(self._guard.listeners, record) if listens_on_port(record) else None,
        )


def _topic(record: ReplicaRecord) -> Topic:
    if record.draining_at is not None:
        return Topic.DRAINING
    return Topic.STARTING if record.ready_at is None else Topic.SERVING
