"""What keeps services from following git: manual requests and failures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from reconciler.model.approvals import DeletionRules
from reconciler.model.names import Reason, ServiceId
from reconciler.model.observed import Quarantine

EVERYTHING = "*"
"""Stands for all services of a target, where names of services may stand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holds:
    """Everything of that for one target.

    `drain` (in git) and `drained_by_hand` say why nothing may run there at all, `unschedulable` why nothing new may
    start. `suspended` are the names of services, or `*`, that are looked at and left alone. `quarantines` are digests
    that failed. `deletions` say what may be deleted.
    """

    drain: Reason | None = None
    drained_by_hand: Reason | None = None
    unschedulable: Reason | None = None
    suspended: frozenset[str] = frozenset()
    quarantines: Mapping[tuple[ServiceId, str], Quarantine] = field(default_factory=dict)
    deletions: DeletionRules = field(default_factory=DeletionRules)

    @property
    def why_empty(self) -> Reason | None:
        """Why nothing may run; None when something may."""
        return self.drain or self.drained_by_hand

    @property
    def suspends_everything(self) -> bool:
        return EVERYTHING in self.suspended

    def suspends(self, service: ServiceId) -> bool:
        return bool(self.suspended) and (EVERYTHING in self.suspended or str(service) in self.suspended)
