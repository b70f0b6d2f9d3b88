"""desired and observed → Plan. Pure: the same answers always make the same plan, in whatever order they came."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TypeVar

from reconciler.fault_isolation import Faults
from reconciler.host.capacity import Ledger
from reconciler.host.health import Patience, ReplicaPhase
from reconciler.host.rollout import Decision, ServiceContext, decide, fast_path, keep_room, unchanged_route
from reconciler.host.rollout.builds import Marked
from reconciler.host.rollout.deletions import judge_deletions, with_held
from reconciler.host.rollout.inputs import Inputs, make_contexts
from reconciler.host.rollout.isolation import current_versions, mark_each, unmark_each
from reconciler.model import (
    NO_ORIGIN,
    Action,
    DesiredState,
    Drain,
    EnsureProxy,
    FailedAction,
    Health,
    HealthStatus,
    Holds,
    Observed,
    Plan,
    ProxyBreak,
    Reason,
    ReasonCode,
    ServiceId,
    ServicePlan,
    ServiceRoute,
    SetRoutes,
    Sync,
    Unreachable,
    Unstage,
    host_reason,
)
from reconciler.model.model_sources import fetched

# Without them it is unknown with whose credentials a model is downloaded, and so under which key it is kept.
_SECRETS_MISSING = frozenset({ReasonCode.SECRET_NOT_FOUND, ReasonCode.SECRETS_UNREADABLE})
_LEAVING = frozenset({ReplicaPhase.BROKEN, ReplicaPhase.DRAINING, ReplicaPhase.STOPPING, ReplicaPhase.GONE})
# Seconds after which one that does not end delays nothing any more.
_STUCK = 60.0
_BUSY = frozenset(ReplicaPhase) - {ReplicaPhase.READY, ReplicaPhase.GONE}


def make_plan(
    desired: DesiredState,
    observed: Observed | Unreachable,
    holds: Holds,
    patience: Patience,
    failures: Collection[FailedAction] = (),
) -> Plan:
    """The next steps of one target. `failures` are actions that failed when they were last tried."""
    if isinstance(observed, Unreachable):
        return _nothing(desired, observed, holds)
    faults = Faults("planning")
    faults.reasons |= observed.faulty
    faults.bugs += observed.bugs
    marked = mark_each(observed, holds.quarantines, failures, faults)
    given = _as_marked(desired, holds, patience, marked, faults)
    contexts = list(make_contexts(given))
    judged = judge_deletions(contexts, given)
    decisions = _decide_each(with_held(contexts, judged), given)
    actions = (*_actions(decisions, given), *_unstage_safely(desired, given))
    actions = unmark_each(actions, marked, observed, faults) if marked.why else actions
    looks = {d.verdict.service: d.look_again_at for d in decisions if d.look_again_at is not None}
    return Plan(
        target=desired.target,
        revision=desired.revision,
        at=observed.at,
        actions=actions,
        verdicts=_verdicts(decisions, given, marked),
        look_again_at=min(looks.values(), default=None),
        notes=(
            *desired.unreadable,
            *desired.notes,
            *(judged.held.reasons if judged.held else ()),
            *_last_calls(decisions, given.desired),
        ),
        looks=looks,
        bugs=tuple(faults.bugs),
        holds=holds,
        deletions=judged,
    )


def _as_marked(desired: DesiredState, holds: Holds, patience: Patience, marked: Marked, faults: Faults) -> Inputs:
    """With older builds distinguished, and of each service the version to be reached next."""
    services = current_versions(desired.services, marked.observed.owned, faults)
    holds = replace(holds, quarantines=marked.quarantines)
    return Inputs(replace(desired, services=services), marked.observed, holds, patience, faults, marked.failures)


def _decide_each(contexts: Iterable[ServiceContext], given: Inputs) -> list[Decision]:
    """What each service needs done, in the order of their names: first those that need no closer look."""
    decisions: dict[ServiceId, Decision] = {}
    open_questions: list[ServiceContext] = []
    for s in contexts:
        decision = _suspended(s) if given.holds.suspends(s.id) else _safely(s, fast_path, given.faults)
        if decision is None:
            open_questions.append(s)
        else:
            decisions[s.id] = decision
    decisions |= _decide_together(open_questions, given)
    return [decisions[key] for key in sorted(decisions)]


def _verdicts(decisions: list[Decision], given: Inputs, marked: Marked) -> dict[ServiceId, ServicePlan]:
    return {
        d.verdict.service: _with_reasons(d.verdict, marked) if marked.why else d.verdict
        for d in decisions
        if not _is_only_a_name(d, given.desired)
    }


def _with_reasons(verdict: ServicePlan, marked: Marked) -> ServicePlan:
    why = marked.why.get(verdict.service)
    return replace(verdict, outdated=why) if why else verdict


def _decide_together(contexts: list[ServiceContext], given: Inputs) -> dict[ServiceId, Decision]:
    """In an order that gives room first to what proved itself before: a restart comes before a newcomer."""
    if not contexts:
        return {}
    ledger = _make_ledger(given)
    contexts.sort(key=lambda s: (s.promoted is None, s.id))
    keep_room(contexts, ledger, given.faults)
    return {s.id: found for s in contexts if (found := _safely(s, lambda s: decide(s, ledger), given.faults))}


def _make_ledger(given: Inputs) -> Ledger:
    desired, observed = given.desired, given.observed
    current = {service.id: service for service in desired.services if service.canary_percent is None}
    # What is suspended does not change: nothing should wait for it.
    moving = [r for r in observed.replicas if not given.holds.suspends(r.service)]
    phases = {r.id: given.phase_of(r) for r in moving}
    stopping = [r for r in moving if phases[r.id] is ReplicaPhase.STOPPING]
    return Ledger(
        observed.capacity,
        observed.replicas,
        leaving=[r for r in moving if phases[r.id] in _LEAVING],
        outdated=[r for r in moving if r.service in current and current[r.service].digest != r.digest],
        wanted={service.id: service.replicas for service in desired.services},
        busy=[r for r in moving if r.restarted or phases[r.id] in _BUSY],
        stuck=[r for r in stopping if observed.at - (r.stopping_at or 0) > _STUCK],
    )


_Decided = TypeVar("_Decided", Decision, Decision | None)


def _safely(s: ServiceContext, judge: Callable[[ServiceContext], _Decided], faults: Faults) -> _Decided | Decision:
    """A service that makes us raise is left alone, and the others are looked after."""
    try:
        if s.id not in faults.reasons:
            return judge(s)
    except Exception as error:
        faults.note(s.id, error, s.desired.origin if s.desired else NO_ORIGIN)
    reason = faults.reasons[s.id]
    verdict = ServicePlan(s.id, Sync.UNKNOWN, Health(HealthStatus.UNKNOWN, reason), step=reason.message, kept=s.kept)
    try:
        route = unchanged_route(s)
    except Exception:
        # The same fault hides what its route should be.
        route = s.route
    return Decision((), route, (), verdict, None)


def _actions(decisions: list[Decision], given: Inputs) -> Iterator[Action]:
    """Records first, so that a pass that dies is understood by the next; then routes; then processes."""
    observed = given.observed
    routes = tuple(decision.route for decision in decisions if decision.route is not None)
    changed = _changed(routes, observed.routes)
    if decisions and not observed.proxy_ready:
        yield _ensure_proxy(observed, is_needed=bool(changed) or _is_behind(given))
    for decision in decisions:
        yield from decision.records
    if changed:
        yield SetRoutes(routes, changed, _why_routes(changed, observed.routes, routes))
    for decision in decisions:
        yield from decision.processes


def _ensure_proxy(observed: Observed, is_needed: bool) -> EnsureProxy:
    """One that serves is replaced only when its configuration has to change, as that ends its requests too."""
    match observed.proxy_break:
        case ProxyBreak.NONE:
            return EnsureProxy("the proxy is not responding")
        case ProxyBreak.HUNG:
            return EnsureProxy("the proxy is unresponsive: it answers no request", replace=True)
        case ProxyBreak.DEAF if is_needed:
            why = "the proxy does not take changes any more: it is replaced, which cuts its requests"
            return EnsureProxy(why, replace=True)
        case ProxyBreak.DEAF:
            return EnsureProxy("the proxy serves, but its admin socket is not responding")


def _is_behind(given: Inputs) -> bool:
    """Does anything run, or drain, that git does not ask for any more? Without the proxy it cannot go."""
    failed, services = given.holds.quarantines, given.desired.services
    wanted = {one.id: one.digest for one in services if one.spec and (one.id, one.digest) not in failed}
    return any(r.draining_at or r.digest != wanted.get(r.service, r.digest) for r in given.observed.replicas)


def _is_only_a_name(decision: Decision, desired: DesiredState) -> bool:
    """Git does not name it any more, and nothing is left of it but its names at the proxy."""
    route = decision.route
    if route is None or route.left_at is None or decision.records or decision.processes:
        return False
    return all(one.id != route.service for one in desired.services)


def _last_calls(decisions: list[Decision], desired: DesiredState) -> Iterator[Reason]:
    """A service that serves and is taken away here may be meant to move: that costs its clients errors."""
    here = {one.id for one in desired.services if not one.not_here}
    lines = {one.id: one.origin for one in desired.services}
    for decision in decisions:
        drains = any(isinstance(action, Drain) for action in decision.records)
        if drains and decision.verdict.service not in here:
            text = (
                f"{decision.verdict.service} serves, and goes: its clients get 503 here from now on; to move it "
                "without that, add it elsewhere in one commit, and take it away here in the next, once it serves there"
            )
            # What git deleted has no line any more.
            yield Reason(ReasonCode.STOPS_SERVING, text, lines.get(decision.verdict.service, NO_ORIGIN))


def _unstage_safely(every: DesiredState, given: Inputs) -> tuple[Unstage, ...]:
    """Where we cannot tell what is needed, all of it is. `every`: each version of a service needs its files."""
    if given.faults.reasons:
        return ()
    try:
        return tuple(_unstage(every, given.observed, given.holds))
    except Exception as error:
        given.faults.note_other("planning which staged files to delete", error)
        return ()


def _unstage(desired: DesiredState, observed: Observed, holds: Holds) -> Iterator[Unstage]:
    """Files that neither git, nor a last good spec, nor a replica needs. What git may name unseen is kept."""
    if not observed.staging or desired.unreadable or desired.refused or not desired.prunable:
        return
    if any(reason.code in _SECRETS_MISSING for one in desired.services for reason in one.blocked):
        return
    # The keys do not show whose files these are, so a service that is to be left alone keeps all of them.
    if _suspends_any(desired, observed, holds) or any(one.spec is None for one in desired.services):
        return
    specs = [(one.id, one.spec) for one in desired.versions if one.spec is not None and not one.not_here]
    specs += [(one.id, one.promoted.spec) for one in observed.owned.values() if one.promoted is not None]
    specs += [(one.service, one.spec) for one in observed.replicas]
    needed = {key for service, spec in specs for key, _ in fetched(service, spec)}
    for key in sorted(observed.staging.keys() - needed):
        yield Unstage(key, "no service needs these files any more")


def _suspends_any(desired: DesiredState, observed: Observed, holds: Holds) -> bool:
    if not holds.suspended:
        return False
    known = {one.id for one in desired.services} | {one.service for one in observed.replicas}
    return any(holds.suspends(one) for one in known | observed.owned.keys() | observed.routes.keys())


def _changed(routes: tuple[ServiceRoute, ...], before: Mapping[ServiceId, ServiceRoute]) -> tuple[ServiceId, ...]:
    named = {route.service for route in routes}
    differ = {route.service for route in routes if _differs(before.get(route.service), route)}
    return tuple(sorted(differ | (before.keys() - named)))


def _differs(before: ServiceRoute | None, after: ServiceRoute) -> bool:
    return before is not after and before != after


def _why_routes(
    changed: tuple[ServiceId, ...], before: Mapping[ServiceId, ServiceRoute], routes: tuple[ServiceRoute, ...]
) -> str:
    after = {route.service: route for route in routes}
    return "; ".join(f"{key}: {_route_change(before.get(key), after.get(key))}" for key in changed)


def _route_change(before: ServiceRoute | None, after: ServiceRoute | None) -> str:
    if after is None:
        return "route removed"
    old = {e.replica.serial: e.draining for e in (*before.stable, *before.canary)} if before else {}
    new = {e.replica.serial: e.draining for e in (*after.stable, *after.canary)}
    parts = [
        f"{serial} {'draining' if drains else 'active'}" for serial, drains in new.items() if old.get(serial) != drains
    ]
    parts += [f"{serial} out" for serial in old if serial not in new]
    return ", ".join(parts) or ("new route" if before is None else "settings changed")


def _suspended(s: ServiceContext) -> Decision:
    # A person did it, without git.
    why = Reason(ReasonCode.SUSPENDED, "suspended manually; `reconciler resume` resumes it", NO_ORIGIN)
    health = Health(HealthStatus.SUSPENDED, why)
    return Decision(
        (), unchanged_route(s), (), ServicePlan(s.id, Sync.UNKNOWN, health, step="suspended", kept=s.kept), None
    )


def _nothing(desired: DesiredState, observed: Unreachable, holds: Holds) -> Plan:
    reason = host_reason(ReasonCode.TARGET_UNREACHABLE, observed.reason)
    verdicts = {
        service.id: ServicePlan(service.id, Sync.UNKNOWN, Health(HealthStatus.UNKNOWN, reason))
        for service in desired.services
    }
    return Plan(desired.target, desired.revision, observed.at, (), verdicts, None, (reason,), holds=holds)
