"""Who listens on the port of a replica that cannot listen on a Unix socket: it must be the replica itself.

Any user of the host could listen there before it does, or after it died, and would be sent keys and prompts. Between a
crash and the next start the port is held for the replica's user: a socket that listens to nothing is bound in addition
to the replica's, and as long as it is there, the kernel gives the port to that user alone, who must set SO_REUSEPORT.
vLLM does. For an engine that does not, nothing can be held, and it is left alone.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass

from reconciler.engines.arguments import has_flag
from reconciler.engines.replica_connection import ForeignListener
from reconciler.host.inventory import ReplicaRecord
from reconciler.model import ReplicaId
from reconciler.system import procfs


@dataclass(frozen=True, slots=True)
class HeldPort:
    """A port of 127.0.0.1, and the user who may listen there."""

    port: int
    user: int


class PortHolds:
    """One place for each replica."""

    def __init__(self) -> None:
        self._held: dict[ReplicaId, tuple[HeldPort, socket.socket]] = {}

    def hold(self, replica: ReplicaId, place: HeldPort) -> None:
        """While it listens there; what fails is tried again at the next check."""
        if (known := self._held.get(replica)) and known[0] == place:
            return
        with suppress(OSError):
            self._held[replica] = (place, _bound(place))

    def keep(self, replicas: Collection[ReplicaId]) -> None:
        """Release the ports of all others."""
        for gone in [each for each in tuple(self._held) if each not in replicas]:
            self._held.pop(gone)[1].close()


def _bound(place: HeldPort) -> socket.socket:
    """Raises OSError."""
    found = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if place.user != os.geteuid():
            # So the kernel takes it for this user's.
            os.fchown(found.fileno(), place.user, -1)
        found.bind(("127.0.0.1", place.port))
    except OSError:
        found.close()
        raise
    return found


def listens_on_port(record: ReplicaRecord) -> bool:
    """By gRPC it may do so in addition to its socket."""
    return not record.socket or speaks_on_port(record)


def speaks_on_port(record: ReplicaRecord) -> bool:
    """Does it speak gRPC there, wherever it speaks HTTP?"""
    return has_flag(record.spec.command_line, "--grpc-port")


class PortGuard:
    """`owns` says whether a process belongs to a replica; it may raise Retryable. `holds` keep the ports of replicas.

    A socket that once was the replica's still is: it is asked once for each.
    """

    def __init__(self, owns: Callable[[ReplicaRecord, int], bool], holds: PortHolds | None = None) -> None:
        self._owns = owns
        self._holds = holds
        self._known: dict[ReplicaId, frozenset[int]] = {}

    def listeners(self, record: ReplicaRecord) -> frozenset[int]:
        """The sockets that listen on its port, all of them its own. Raises ForeignListener."""
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
