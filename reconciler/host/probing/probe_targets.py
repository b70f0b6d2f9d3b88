"""Which replicas are probed, and how to reach each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial

from reconciler.engines.arguments import ends_tls, speaks_grpc
from reconciler.errors import ReconcileError
from reconciler.fault_isolation import Faults
from reconciler.host.inventory import ReplicaRecord
from reconciler.host.probing.probing import Subject, Topic
from reconciler.host.process.port_guard import PortGuard, listens_on_port
from reconciler.host.supervisor import ProcessState
from reconciler.model import ReplicaId
from reconciler.secrets.wanted import secret_ref


class Subjects:
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
