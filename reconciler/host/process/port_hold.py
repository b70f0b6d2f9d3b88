"""Reserves ports for the users whose replicas listen there: between a crash and the next start no other user can.

The proxy sends requests there until it learns of the crash, and any process that listens there gets keys and prompts.
So a socket that listens to nothing is bound in addition to the replica's: as long as it is there, the kernel gives the
port to that user alone, who must set SO_REUSEPORT. vLLM does. For an engine that does not, nothing can be kept, and it
is left alone.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass

from reconciler.model import ReplicaId


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
