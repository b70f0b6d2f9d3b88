"""What replicas of targets hold that are not in the config any more: nothing is started on top of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Reservations:
    """Ports, and GPUs by their UUID, each with a text about who holds it."""

    ports: frozenset[int] = frozenset()
    gpus: Mapping[str, str] = field(default_factory=dict)


NOTHING = Reservations()
# Raises Retryable when a record cannot be read.
Reserved = Callable[[], Reservations]
