"""What a decision about one service means: its sync, its health, and what it waits for. Pure."""

from __future__ import annotations

from reconciler.cluster.health.rollout import RolloutState
from reconciler.cluster.object_plan import Decided
from reconciler.cluster.objects.compare import InSync
from reconciler.cluster.rollout.goal import Goal, GoalKind
from reconciler.cluster.service_plan import RolloutDecision, ServiceInputs, records_of
from reconciler.model import (
    NO_ORIGIN,
    Action,
    AskPreflight,
    DesiredObject,
    Health,
    HealthStatus,
    ObjectChange,
    ObjectPlan,
    Reason,
    ReasonCode,
    ServiceId,
    ServicePlan,
    Sync,
    progress,
)

# A person did it, without git.
_BY_HAND = Reason(ReasonCode.SUSPENDED, "suspended manually; `reconciler resume` resumes it", NO_ORIGIN)


def why_applied(said: ObjectPlan, goal: Goal) -> str:
    if goal.kind is GoalKind.KEEP and goal.why:
        return f"kept on a copy of its runtime: {goal.why.message}"
    if goal.kind is not GoalKind.RESTORE or said.change is ObjectChange.NONE:
        return said.why
    return f"falls back to the last good version: {goal.why}"


def kept_as_it_is(s: ServiceInputs, decision: RolloutDecision, health: Health) -> Decided:
    """What is there stays as it is."""
    goal = decision.goal
    why = goal.why
    text = why.message if why else "stays as it is"
    said = ObjectPlan(
        s.git.id,
        Sync.OUT_OF_SYNC,
        health,
        ObjectChange.KEEP if decision.found else ObjectChange.NONE,
        s.git.origin,
        text,
        reasons=goal.blocked,
        service=s.desired.id,
    )
    records, _ = records_of(s, decision)
    asks: tuple[Action, ...] = ()
    if goal.ask and s.desired.spec is not None:
        asks = (AskPreflight(s.desired.id, s.desired.digest, s.desired.spec, s.desired.origin, text),)
    strategy = decision.new.strategy if decision.new else ""
    plan = ServicePlan(
        s.desired.id,
        Sync.OUT_OF_SYNC,
        health,
        text,
        strategy,
        goal.blocked,
        goal.rejected,
        applied=decision.live_digest,
    )
    return Decided(said, (*records, *asks), plan, again_at(s, decision))


def health_of(s: ServiceInputs) -> Health:
    if s.health is not None:
        return s.health.health
    return Health(HealthStatus.MISSING, progress(ReasonCode.MISSING, "it is not on the cluster"))


def suspended(s: ServiceInputs) -> Decided:
    return Decided(suspended_object(s.git), verdict=suspended_verdict(s.desired.id))


def suspended_verdict(service: ServiceId) -> ServicePlan:
    return ServicePlan(service, Sync.UNKNOWN, Health(HealthStatus.SUSPENDED, _BY_HAND), step="suspended")


def suspended_object(wanted: DesiredObject) -> ObjectPlan:
    shown = Health(HealthStatus.SUSPENDED, _BY_HAND)
    return ObjectPlan(
        wanted.id, Sync.UNKNOWN, shown, origin=wanted.origin, why=_BY_HAND.message, service=wanted.service
    )


def service_verdict(
    s: ServiceInputs, decision: RolloutDecision, said: ObjectPlan, health: Health, is_recorded: bool
) -> ServicePlan:
    sync = _sync(s, decision, is_recorded)
    if sync is not Sync.SYNCED and health.phase in (HealthStatus.HEALTHY, HealthStatus.MISSING):
        health = _on_the_way(decision, said, health)
    new = decision.new
    steps = [said.why, *(one.message for one in (new.notes if new else ()))]
    return ServicePlan(
        s.desired.id,
        sync,
        health,
        step="; ".join(filter(None, steps)) or waiting_for(decision),
        strategy=new.strategy if new else "",
        blocked=decision.goal.blocked,
        rejected=decision.goal.rejected,
        applied=decision.live_digest,
    )


def _sync(s: ServiceInputs, decision: RolloutDecision, is_recorded: bool) -> Sync:
    """In sync is what is as git says and has proved itself, or is asked to run nothing."""
    is_git = decision.goal.kind in (GoalKind.ROLL, GoalKind.SUSPEND) and isinstance(decision.found, InSync)
    if not is_git or is_recorded:
        return Sync.OUT_OF_SYNC
    is_idle = decision.outcome is not None and decision.outcome.state is RolloutState.IDLE
    is_proven = s.record.is_proven(s.desired.digest)
    return Sync.SYNCED if is_idle or is_proven else Sync.OUT_OF_SYNC


def _on_the_way(decision: RolloutDecision, said: ObjectPlan, health: Health) -> Health:
    """What is there may be well; git's version is still to come, or failed."""
    if decision.goal.rejected is None and not decision.goal.blocked:
        text = said.why or waiting_for(decision) or "it must stay ready for a while before it is promoted"
        return Health(HealthStatus.PROGRESSING, progress(ReasonCode.PROGRESSING, text))
    return health


def waiting_for(decision: RolloutDecision) -> str:
    if decision.outcome is None or decision.outcome.state is not RolloutState.UNDER_WAY:
        return ""
    return decision.outcome.reason.message


def again_at(s: ServiceInputs, decision: RolloutDecision) -> float | None:
    times = (
        s.health.look_again_at if s.health else None,
        decision.outcome.look_again_at if decision.outcome else None,
        decision.goal.again_at,
    )
    return min((each for each in times if each is not None), default=None)
