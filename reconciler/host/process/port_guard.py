"""Verifies who listens on the TCP port of a replica that cannot listen on a Unix socket: it must be the replica itself.

Any user of the host could listen there before it does, or after it died, and would be sent keys and prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from reconciler.engines.arguments import find
from reconciler.engines.probe import ForeignListener
from reconciler.host.inventory import ReplicaRecord
from reconciler.host.process.port_hold import HeldPort, PortHolds
from reconciler.model import ReplicaId
from reconciler.system import procfs


def listens_on_port(record: ReplicaRecord) -> bool:
    """By gRPC it may do so in addition to its socket."""
    return not record.socket or speaks_on_port(record)


def speaks_on_port(record: ReplicaRecord) -> bool:
    """Does it speak gRPC there, wherever it speaks HTTP?"""
    return bool(find(record.spec.command_line, "--grpc-port"))


class PortGuard:
    """`owns` says whether a process belongs to a replica; it may raise Retryable. `holds` keep the ports of replicas.

    A socket that once was the replica's still is: it is asked once for each.
    """

    def __init__(self, owns: Callable[[ReplicaRecord, int], bool], holds: PortHolds | None = None) -> None:
        self._owns = owns
        self._holds = holds
        self._known: dict[ReplicaId, frozenset[int]] = {}

    def listeners(self, record: ReplicaRecord) -> frozenset[int]:
        """The sockets that listen on its port, all of them its own. Raises Stranger."""
        if not listens_on_port(record):
            return frozenset()
        there = procfs.loopback_listeners(record.lease.port)
        for inode in there.keys() - self._known.get(record.id, frozenset()):
            holders = procfs.holders({inode})
            # Who hands a socket of its own to a program that becomes another user, as `sudo` does, keeps it as well.
            if not any(procfs.runs_as(pid, (there[inode],)) and self._owns(record, pid) for pid in holders):
                raise ForeignListener(_named(record.lease.port, holders, there[inode]))
        self._known[record.id] = frozenset(there)
        if self._holds is not None and there:
            self._holds.hold(record.id, HeldPort(record.lease.port, min(there.values())))
        return frozenset(there)

    def keep(self, replicas: Collection[ReplicaId]) -> None:
        """Drop all others. May be called while another thread checks."""
        for gone in [each for each in tuple(self._known) if each not in replicas]:
            self._known.pop(gone, None)
        if self._holds is not None:
            self._holds.keep(replicas)

    def listens(self, record: ReplicaRecord) -> bool:
        """Does the replica itself listen? Raises Retryable."""
        try:
            return bool(self.listeners(record)) if not record.socket else procfs.listens(record.socket)
        except ForeignListener:
            return False


def _named(port: int, holders: set[int], user: int) -> str:
    who = f"PID {min(holders)} ({procfs.name_of(min(holders))}), " if holders else ""
    return f"port {port} is held by {who}uid {user}, which does not belong to this replica"
