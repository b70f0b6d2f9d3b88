"""How requests reach a service while its replicas come and go, and after it left this host. Pure.

A service that left may be on its way to another host, and a client that gets Retry-After does not give up.
"""

from __future__ import annotations

from collections.abc import Collection

from reconciler.engines.arguments import ends_tls, model_names, speaks_grpc, takes_grpc
from reconciler.host.health import ReplicaPhase
from reconciler.host.rollout.context import ServiceContext
from reconciler.host.rollout.goal import DELETED, Goal, GoalKind, find_goal, joined
from reconciler.host.rollout.steps import Steps
from reconciler.model import (
    Action,
    Drain,
    EffectiveSpec,
    Endpoint,
    Health,
    HealthStatus,
    Replica,
    ReplicaId,
    ServicePlan,
    ServiceRoute,
    Stop,
    Sync,
    Undrain,
)

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


def route_of(s: ServiceContext, goal: Goal, steps: Steps) -> ServiceRoute | None:
    """The route once this pass's records are written; None when there should be none."""
    if goal.kind is GoalKind.LEAVE and not s.replicas:
        return farewell(s)
    leaving = _named(steps.processes, Stop)
    draining = (
        _named(steps.records, Drain) | {r.id for r in s.of(ReplicaPhase.HUNG, ReplicaPhase.DRAINING) if r.draining_at}
    ) - _named(steps.records, Undrain)
    shown = [r for r in s.of(ReplicaPhase.READY, ReplicaPhase.HUNG, ReplicaPhase.DRAINING) if r.id not in leaving]
    canary = [r for r in shown if _is_canary(s, goal, r, r.id in draining)]
    stable = [r for r in shown if r not in canary]
    draining |= _silent(shown, draining)
    answering = [r for r in shown if r.id not in draining]
    return ServiceRoute(
        service=s.id,
        stable=_endpoints(stable, draining),
        canary=_endpoints(canary, draining),
        canary_percent=_percent(s, goal) if canary else 0,
        request_timeout=_request_timeout(s),
        guarded=_is_guarded(s),
        open_paths=_open_paths(s),
        passthrough=_is_passed_through(s, shown),
        is_new=s.promoted is None and not shown,
        model_names=_shared_names(s, [r for r in answering if r in stable]) or (() if answering else _names_to_come(s)),
        canary_names=_shared_names(s, [r for r in answering if r in canary]),
        grpc=_is_taken(s, grpc=True),
        http=_is_taken(s, grpc=False),
    )


def _silent(shown: list[Replica], draining: set[ReplicaId]) -> set[ReplicaId]:
    """Those that do not answer get nothing while others do. Alone they keep their requests: they may come back."""
    silent = {r.id for r in shown if r.silence}
    return silent if any(r.id not in silent | draining for r in shown) else set()


def unchanged_route(s: ServiceContext) -> ServiceRoute | None:
    """The route of a service that is left alone: as last published, or what its replicas show if that is unknown."""
    return s.route or (route_of(s, find_goal(s), Steps()) if s.replicas else None)


def _request_timeout(s: ServiceContext) -> float | None:
    if s.desired and s.desired.spec:
        return s.desired.request_timeout
    return s.route.request_timeout if s.route else None


def _is_guarded(s: ServiceContext) -> bool:
    """A service whose authentication cannot be enforced is refused;

    its replicas stay as open, or as closed, as they were.
    """
    if s.desired and s.desired.spec:
        return s.desired.guarded
    return s.route.guarded if s.route else False


def _is_taken(s: ServiceContext, *, grpc: bool) -> bool:
    """As git says; but the promoted version may come back until its successor is promoted."""
    if s.desired and s.desired.spec:
        wanted = s.desired.grpc if grpc else s.desired.http
        return wanted or (s.promoted is not None and _takes(s.promoted.spec, grpc))
    return (s.route.grpc if grpc else s.route.http) if s.route else not grpc


def _open_paths(s: ServiceContext) -> tuple[str, ...]:
    if s.desired and s.desired.spec:
        return s.desired.open_paths
    return s.route.open_paths if s.route else ()


def _shared_names(s: ServiceContext, replicas: list[Replica]) -> tuple[str, ...]:
    """The names that each of these answers to: one that some do not would answer now and then."""
    first, *others = [_names_of(s, each) for each in replicas] or [()]
    return tuple(name for name in first if all(name in each for each in others))


def _names_of(s: ServiceContext, replica: Replica) -> tuple[str, ...]:
    want = s.desired
    if want is not None and replica.digest == want.digest:
        return want.model_names
    return tuple(name for name in model_names(replica.spec) if name not in (s.id.name, str(s.id)))


def _names_to_come(s: ServiceContext) -> tuple[str, ...]:
    """Those that answer 503 while nothing serves."""
    if s.desired and s.desired.spec:
        return s.desired.model_names
    return s.route.model_names if s.route else ()


def _is_passed_through(s: ServiceContext, shown: list[Replica]) -> bool:
    """As git says; but clients that reach an older digest by TLS do so until its successor is promoted."""
    before, want = s.route is not None and s.route.passthrough, s.desired
    if want is None or want.spec is None:
        return before
    others = [(r.digest, r.spec) for r in shown] + ([(s.promoted.digest, s.promoted.spec)] if s.promoted else [])
    return want.passthrough or (before and any(key != want.digest and _spec_ends_tls(spec) for key, spec in others))


def _percent(s: ServiceContext, goal: Goal) -> int:
    if goal.kind is GoalKind.KEEP and s.route:
        return s.route.canary_percent
    return (s.desired.canary_percent or 0) if s.desired and len(goal.generations) > 1 else 0


def _is_canary(s: ServiceContext, goal: Goal, replica: Replica, is_draining: bool) -> bool:
    """A draining replica stays on the side where its requests run, so that the proxy goes on counting them.

    One that was on trial, and is not wanted any more, does not get a full share for its last moments either.
    """
    was_canary = s.route is not None and any(e.replica == replica.id for e in s.route.canary)
    wanted = [g for g in goal.generations if g.digest == replica.digest]
    if is_draining or not wanted:
        return was_canary
    return any(g.canary for g in wanted)


def _endpoints(replicas: list[Replica], draining: set[ReplicaId]) -> tuple[Endpoint, ...]:
    ordered = sorted(replicas, key=lambda r: r.id)
    return tuple(
        Endpoint(
            r.id,
            r.lease.port,
            r.id in draining,
            _spec_ends_tls(r.spec),
            r.socket,
            not _takes(r.spec, False),
            _beside(r),
        )
        for r in ordered
    )


def _beside(replica: Replica) -> int:
    """The port where it speaks gRPC in addition to HTTP; 0: none."""
    is_both = replica.socket and _takes(replica.spec, True) and _takes(replica.spec, False)
    return replica.lease.port if is_both else 0


def _spec_ends_tls(spec: EffectiveSpec) -> bool:
    return ends_tls(spec.command_line)


def _takes(spec: EffectiveSpec, grpc: bool) -> bool:
    words = spec.command_line
    return takes_grpc(words) if grpc else not speaks_grpc(words)


def _named(actions: Collection[Action], kind: type[Stop] | type[Drain] | type[Undrain]) -> set[ReplicaId]:
    return {action.replica for action in actions if isinstance(action, kind)}
