"""What served here a moment ago and is not for this host any more: its names answer 503 for a while, then 404.

It may be on its way to another host, and a client that gets Retry-After does not give up.
"""

from __future__ import annotations

from reconciler.host.rollout.context import ServiceContext
from reconciler.host.rollout.goal import DELETED, joined
from reconciler.model import Health, HealthStatus, ServicePlan, ServiceRoute, Sync

SECONDS = 600.0


def farewell(s: ServiceContext) -> ServiceRoute | None:
    """The route of a service whose last replica is gone; None where nothing served, or too long ago."""
    if s.route is None:
        return None
    served = s.route.stable or s.route.canary or (s.promoted and s.promoted.replicas)
    left_at = s.route.left_at or (s.now if served else None)
    return (
        ServiceRoute(s.id, left_at=left_at, model_names=s.route.model_names, grpc=s.route.grpc, http=s.route.http)
        if left_at and 0 <= s.now - left_at < SECONDS
        else None
    )


def is_departed(s: ServiceContext) -> bool:
    """Is nothing left of it but its names?"""
    is_wanted = s.desired is not None and not s.desired.not_here
    return bool(s.route and s.route.left_at and not (is_wanted or s.replicas or s.owned))


def verdict_of_departed(s: ServiceContext) -> ServicePlan:
    why = joined(s.desired.not_here) if s.desired else DELETED
    return ServicePlan(s.id, Sync.SYNCED, Health(HealthStatus.SUSPENDED, why))
