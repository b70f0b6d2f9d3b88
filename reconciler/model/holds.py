"""What keeps services from following git: manual requests and failures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from reconciler.model.names import Reason, ServiceId
from reconciler.model.observed import Quarantine


@dataclass(frozen=True, slots=True)
class ByHand:
    """Who asked for it, when, why and until when; each is empty if unknown."""

    by: str = ""
    at: float | None = None
    reason: str = ""
    until: float | None = None

    def is_over(self, now: float) -> bool:
        """Has the time come at which it ends by itself?"""
        return self.until is not None and now >= self.until

    def __str__(self) -> str:
        """`by alice until 2026-11-30T08:00:00Z: replacing a disk`, or `by hand`."""
        until = f" until {_moment(self.until)}" if self.until is not None else ""
        return f"by {self.by or 'hand'}{until}{': ' + self.reason if self.reason else ''}"


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


EVERYTHING = "*"
"""Stands for all services of a target, where names of services may stand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holds:
    """Everything of that for one target.

    `drain` (in git) and `drained_by_hand` say why nothing may run there at all, `unschedulable` why nothing new may
    start. `suspended` are the names of services, or `*`, that are looked at and left alone. `quarantines` are digests
    that failed.
    """

    drain: Reason | None = None
    drained_by_hand: Reason | None = None
    unschedulable: Reason | None = None
    suspended: frozenset[str] = frozenset()
    quarantines: Mapping[tuple[ServiceId, str], Quarantine] = field(default_factory=dict)

    @property
    def why_empty(self) -> Reason | None:
        """Why nothing may run; None when something may."""
        return self.drain or self.drained_by_hand

    def suspends(self, service: ServiceId) -> bool:
        return bool(self.suspended) and (EVERYTHING in self.suspended or str(service) in self.suspended)
