"""The short way for a service that is completely in sync: most services, in most passes.

It must never say anything that `decide` would not; a property test holds the two together.
"""

from __future__ import annotations

from functools import lru_cache

from reconciler.host.rollout.context import ServiceContext
from reconciler.host.rollout.decide import Decision
from reconciler.host.rollout.goal import joined
from reconciler.host.rollout.route import farewell, is_departed, verdict_of_departed
from reconciler.model import (
    Desired,
    Health,
    HealthStatus,
    Promoted,
    Reason,
    ReasonCode,
    Replica,
    Routed,
    ServicePlan,
    ServiceRoute,
    Sync,
    progress,
)


def fast_path(s: ServiceContext) -> Decision | None:
    """The decision for a service with nothing to do and nothing to wait for; None when it needs a closer look."""
    want, owned, route = s.desired, s.owned, s.route
    if route is not None and route.left_at is not None and is_departed(s):
        return Decision((), farewell(s), (), verdict_of_departed(s), None)
    if want is not None and not s.replicas and (idle := _settled_without(s, want)):
        return idle
    if s.why_empty or want is None or owned is None or owned.promoted is None or route is None or owned.crashes:
        return None
    if not _is_proven(want, owned.promoted) or len(s.replicas) != want.replicas:
        return None
    if not all(_is_calm(replica, want.digest) for replica in s.replicas) or not _routes(route, want, s.replicas):
        return None
    verdict = ServicePlan(s.id, Sync.SYNCED, _serving(want.replicas))
    return Decision((), route, (), verdict, None)


def _settled_without(s: ServiceContext, want: Desired) -> Decision | None:
    """A service of which nothing runs, because it is for other hosts or because this one is cordoned."""
    if want.not_here:
        if s.owned or s.route:
            return None
        return Decision((), None, (), ServicePlan(s.id, Sync.SYNCED, _suspended(joined(want.not_here))), None)
    new, names = s.promoted is None, want.model_names
    idle = ServiceRoute(s.id, request_timeout=want.request_timeout, is_new=new, model_names=names)
    if s.why_empty is None or want.spec is None or s.route != idle:
        return None
    return Decision((), s.route, (), ServicePlan(s.id, Sync.SYNCED, _suspended(s.why_empty)), None)


def _is_proven(want: Desired, promoted: Promoted) -> bool:
    return (
        want.spec is not None
        and want.canary_percent is None
        and want.replicas > 0
        and promoted.digest == want.digest
        and promoted.replicas == want.replicas
        and promoted.drain_timeout == want.drain_timeout
        and promoted.origin == want.origin
    )


def _is_calm(r: Replica, digest: str) -> bool:
    return (
        r.alive
        and r.spawned
        and r.routed is Routed.ACTIVE
        and r.ready_at is not None
        and r.draining_at is None
        and r.stopping_at is None
        and r.healthy is not False
        and not r.drift
        and r.restarted is None
        and not r.silence
        and r.digest == digest
    )


def _routes(route: ServiceRoute, want: Desired, replicas: tuple[Replica, ...]) -> bool:
    """Does the route name exactly these replicas? Both are in order of their ids."""
    if route.canary or route.canary_percent or route.is_new or route.canary_names:
        return False
    told = (route.request_timeout, route.guarded, route.passthrough, route.open_paths, route.model_names, route.grpc)
    wanted = (want.request_timeout, want.guarded, want.passthrough, want.open_paths, want.model_names, want.grpc)
    if told != wanted or route.http is not want.http:
        return False
    if len(route.stable) != len(replicas):
        return False
    return all(
        e.replica == r.id and (e.port, e.socket) == (r.lease.port, r.socket) and not e.draining
        for e, r in zip(route.stable, replicas, strict=True)
    )


@lru_cache(maxsize=64)
def _serving(count: int) -> Health:
    return Health(HealthStatus.HEALTHY, progress(ReasonCode.SERVING, f"{count} of {count} replicas serve"))


@lru_cache(maxsize=64)
def _suspended(why: Reason) -> Health:
    return Health(HealthStatus.SUSPENDED, why)
