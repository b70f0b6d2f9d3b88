"""What this machine may give to replicas altogether, which ports are free for them, and what others hold of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from reconciler.config import settings as config
from reconciler.host.gpus.devices import Gpus
from reconciler.kserve.quantity import cpu_millis, memory_bytes
from reconciler.model import Capacity, Gpu
from reconciler.system import procfs


class Machine:
    """One host, within the limits of its config."""

    def __init__(self, settings: config.TargetSettings, gpus: Gpus) -> None:
        self._gpus = gpus
        self._ports = settings.port_range
        limits = settings.allocatable
        self._cpu = _least((os.cpu_count() or 1) * 1000, limits.cpu, cpu_millis)
        self._memory = _least(_memory_total(), limits.memory, memory_bytes)

    @property
    def memory_bytes(self) -> int:
        """What replicas may take of this host's memory altogether."""
        return self._memory

    def gpus(self) -> tuple[Gpu, ...]:
        """Raises Retryable when the GPUs cannot be listed."""
        return self._gpus.list()

    def capacity(self, leased: Iterable[int]) -> Capacity:
        """Raises Retryable when the GPUs cannot be listed."""
        held, taken = frozenset(leased), procfs.listeners()
        # Most replicas listen on a socket, and need their port for nothing: one that is taken is better than none.
        ports = sorted((port for port in self._ports if port not in held), key=lambda port: port in taken)
        return Capacity(self._cpu, self._memory, self._gpus.list(), tuple(ports))


def _least(have: int, limit: str | None, parse: Callable[[str], int]) -> int:
    return have if limit is None else min(have, parse(limit))


def _memory_total() -> int:
    with open("/proc/meminfo") as file:
        for line in file:
            if line.startswith("MemTotal:"):
                return int(line.split()[1]) * 1024
    return 0


@dataclass(frozen=True, slots=True)
class Reservations:
    """Ports, and GPUs by their UUID, each with a text about who holds it."""

    ports: frozenset[int] = frozenset()
    gpus: Mapping[str, str] = field(default_factory=dict)


NOTHING = Reservations()
# Raises Retryable when a record cannot be read.
Reserved = Callable[[], Reservations]
