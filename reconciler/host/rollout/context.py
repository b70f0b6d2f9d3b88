"""Everything that is known about one service when its next steps are decided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from reconciler.host.health import Patience, ReplicaPhase, phase_of
from reconciler.host.rollout.failures import is_lasting, of_start, retry_at
from reconciler.model import (
    Capacity,
    Desired,
    FailedAction,
    Owned,
    Preflight,
    Promoted,
    Quarantine,
    Reason,
    Replica,
    Restart,
    Routed,
    ServiceId,
    ServiceRoute,
    Staging,
)


@dataclass(frozen=True)
class ServiceContext:
    """One service, as git wants it and as it was observed.

    `keep` says why a service that git does not show, or not for this host, is not pruned; None means that it may go.
    `why_empty` says why nothing at all may run on this host, `unschedulable` why nothing new may start. `failures` are
    its actions that failed.
    `has_room`: git's digest could start in addition to all that runs. `all_died`: everything on this host ended at
    once.
    `starting_on` are shared GPUs on which a replica starts. `leaving` says why it goes, if git did not delete it.
    `blockers` say why this host cannot start git's digest now.
    """

    id: ServiceId
    desired: Desired | None
    owned: Owned | None
    replicas: tuple[Replica, ...]
    capacity: Capacity
    revision: str
    now: float
    patience: Patience
    quarantines: Mapping[str, Quarantine] = field(default_factory=dict)
    preflight: Preflight | None = None
    asking: bool = False
    blockers: tuple[Reason, ...] = ()
    keep: Reason | None = None
    why_empty: Reason | None = None
    unschedulable: Reason | None = None
    route: ServiceRoute | None = None
    starting_on: frozenset[str] = frozenset()
    staging: Mapping[str, Staging] = field(default_factory=dict)
    failures: tuple[FailedAction, ...] = ()
    has_room: bool = False
    all_died: bool = False
    images: Mapping[str, Staging | None] = field(default_factory=dict)
    leaving: Reason | None = None

    @property
    def kept(self) -> Reason | None:
        """Why it stays though git does not want it here. Where nothing is, there is nothing to keep."""
        if self.desired is not None and not (self.desired.not_here and (self.replicas or self.owned)):
            return None
        return self.keep

    @property
    def promoted(self) -> Promoted | None:
        return self.owned.promoted if self.owned else None

    @property
    def crashes(self) -> tuple[float, ...]:
        return self.owned.crashes if self.owned else ()

    @cached_property
    def phases(self) -> Mapping[str, ReplicaPhase]:
        return {r.id.serial: self._phase(r) for r in self.replicas}

    def _phase(self, replica: Replica) -> ReplicaPhase:
        """What crashed on trial has failed, though it was started again."""
        found = phase_of(replica, self.now, self.patience)
        has_failed = replica.restarted is Restart.CRASHED and not self.is_proven(replica.digest)
        return ReplicaPhase.BROKEN if has_failed and found in (ReplicaPhase.STARTING, ReplicaPhase.READY) else found

    def is_beside_a_start(self, replica: Replica) -> bool:
        """An engine that measures its GPU dies if memory there is given back meanwhile."""
        return not self.starting_on.isdisjoint(replica.lease.gpus)

    def of(self, *phases: ReplicaPhase) -> tuple[Replica, ...]:
        """The replicas that stand at one of these points, oldest first."""
        chosen = [r for r in self.replicas if self.phases[r.id.serial] in phases]
        return tuple(sorted(chosen, key=lambda r: (r.created_at, r.id)))

    @property
    def drain_timeout(self) -> float:
        """Seconds that running requests get: the service's own setting, else the host's."""
        for word in (self.desired, self.promoted):
            if word is not None and word.drain_timeout is not None:
                return word.drain_timeout
        return self.patience.drain_timeout

    def is_proven(self, digest: str) -> bool:
        return self.promoted is not None and self.promoted.digest == digest

    def start_failure(self, digest: str) -> FailedAction | None:
        """Why this digest did not come up when it was last tried, if that is not its engine's doing."""
        return of_start(self.failures, digest)

    def start_due(self, digest: str) -> float:
        """When this digest may be started again. Much later where a replica that serves would have to go for it."""
        failed = self.start_failure(digest)
        if failed is None:
            return self.now
        costs = not self.has_room and any(r.digest != digest for r in self.of(ReplicaPhase.READY))
        return retry_at(failed, self.now, costly=costs and is_lasting(failed))

    def is_serving(self, replica: Replica) -> bool:
        """Ready, reachable through the proxy, and not silent."""
        is_ready = self.phases[replica.id.serial] is ReplicaPhase.READY and not replica.silence
        return is_ready and replica.routed is Routed.ACTIVE

    def is_available(self, replica: Replica) -> bool:
        """Serving, and ready for long enough to be trusted."""
        if not self.is_serving(replica):
            return False
        trusted_at = (replica.ready_at or self.now) + self.patience.min_ready
        return self.is_proven(replica.digest) or self.now >= trusted_at
