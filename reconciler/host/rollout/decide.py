"""One service: goal, steps, route and verdict together. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from reconciler.host.capacity import Ledger
from reconciler.host.health import ReplicaPhase, is_crash_looping
from reconciler.host.rollout import lifecycle
from reconciler.host.rollout.context import ServiceContext
from reconciler.host.rollout.failures import START, TIDYING, TRIAL, is_lasting, why
from reconciler.host.rollout.goal import Generation, Goal, GoalKind, find_goal
from reconciler.host.rollout.lifecycle import end_hung
from reconciler.host.rollout.move import move
from reconciler.host.rollout.reservations import need_of
from reconciler.host.rollout.route import farewell, is_departed, route_of, verdict_of_departed
from reconciler.host.rollout.staging import STAGING_FAILED, begin_staging
from reconciler.host.rollout.steps import Steps
from reconciler.model import (
    NO_ORIGIN,
    Action,
    AskPreflight,
    Health,
    HealthStatus,
    Reason,
    ReasonCode,
    Reject,
    Replica,
    ServicePlan,
    ServiceRoute,
    Silence,
    Sync,
    progress,
)

# Seconds between two looks at GPUs whose memory foreign processes have.
_GPU_LOOK = 5.0
# Seconds between two looks at an engine that gives no verdict: it is asked again every few minutes at most.
_PREFLIGHT_LOOK = 15.0


@dataclass(frozen=True, slots=True)
class Decision:
    """What one service needs done: `records`, then its route, then `processes`."""

    records: tuple[Action, ...]
    route: ServiceRoute | None
    processes: tuple[Action, ...]
    verdict: ServicePlan
    look_again_at: float | None


def decide(s: ServiceContext, ledger: Ledger) -> Decision:
    """The next steps of one service. Takes leases from the ledger; changes nothing else."""
    if is_departed(s):
        return Decision((), farewell(s), (), verdict_of_departed(s), None)
    steps = Steps()
    s = lifecycle.handle_failures(s, steps)
    s = lifecycle.reattach(s, steps)
    lifecycle.finish_stops(s, steps)
    s = lifecycle.mark_ready(s, steps)
    lifecycle.repair(s, steps)
    goal = find_goal(_with_room(s, ledger))
    _note_goal(s, goal, steps)
    s = lifecycle.relabel(s, goal, steps)
    s = lifecycle.finish_drains(s, goal, steps)
    move(s, goal, ledger, steps)
    end_hung(s, goal, steps)
    if any(one.code is ReasonCode.INSUFFICIENT_GPU_MEMORY for one in steps.lacking):
        # No event says when another process frees what it has.
        steps.look(s.now + _GPU_LOOK)
    return Decision(
        records=steps.records,
        route=route_of(s, goal, steps),
        processes=steps.processes,
        verdict=verdict_of(s, goal, steps, ledger),
        look_again_at=steps.look_again_at,
    )


def _with_room(s: ServiceContext, ledger: Ledger) -> ServiceContext:
    """Only after a failure it matters whether another try costs anything."""
    want = s.desired
    if not s.failures or want is None or want.spec is None or (want.strategy and want.strategy.max_unavailable):
        return s
    need = need_of(s, Generation(want.digest, want.spec, want.replicas, want.origin))
    return replace(s, has_room=ledger.fits(need, s.id))


def _note_goal(s: ServiceContext, goal: Goal, steps: Steps) -> None:
    if goal.reject:
        steps.record(Reject(goal.reject, str(goal.reject.reason)))
    begin_staging(s, goal.stage, steps)
    if goal.again_at is not None:
        steps.look(goal.again_at)
    want = s.desired
    if goal.ask and want and want.spec:
        reason = "validating the arguments with the installed vLLM"
        steps.act(AskPreflight(s.id, want.digest, want.spec, want.origin, reason))
    if goal.why and goal.why.code is ReasonCode.PREFLIGHT_FAILED:
        steps.look(s.now + _PREFLIGHT_LOOK)
    elif goal.ask or (goal.why and goal.why.code is ReasonCode.PREFLIGHT_PENDING):
        steps.say("preflight: validating the arguments with the installed vLLM")
        steps.look(s.now + 5)


def verdict_of(s: ServiceContext, goal: Goal, steps: Steps, ledger: Ledger) -> ServicePlan:
    """The verdict on one service after its steps were decided."""
    blocked = goal.blocked or _blocked_by_room(s, goal, steps, ledger)
    return ServicePlan(
        service=s.id,
        sync=_sync(s, goal, steps),
        health=_health(s, goal, steps, blocked),
        step=steps.text,
        strategy=steps.strategy,
        blocked=blocked,
        rejected=goal.rejected,
        kept=s.kept if goal.kind is not GoalKind.LEAVE else None,
    )


def _blocked_by_room(s: ServiceContext, goal: Goal, steps: Steps, ledger: Ledger) -> tuple[Reason, ...]:
    """What is missing, unless something is under way that may free it."""
    if not steps.lacking or s.of(
        ReplicaPhase.HUNG, ReplicaPhase.BROKEN, ReplicaPhase.DRAINING, ReplicaPhase.STOPPING, ReplicaPhase.GONE
    ):
        return ()
    short = next((one for one in goal.generations if _is_short(s, one)), None)
    if short and ledger.fits_soon(need_of(s, short), s.id):
        return ()
    where = s.desired.resources_origin or s.desired.origin if s.desired else NO_ORIGIN
    return tuple(replace(one, origin=one.origin or where) for one in steps.lacking)


def _why_silent(replica: Replica, count: str) -> Reason:
    code = ReasonCode.HUNG if replica.silence is Silence.HUNG else ReasonCode.SILENT
    return progress(code, f"{replica.id.serial}: {replica.silent_why}; {count}")


def _is_short(s: ServiceContext, generation: Generation) -> bool:
    running = (
        r
        for r in s.of(ReplicaPhase.PLANNED, ReplicaPhase.STARTING, ReplicaPhase.READY)
        if r.digest == generation.digest
    )
    return len(tuple(running)) < generation.count


def _sync(s: ServiceContext, goal: Goal, steps: Steps) -> Sync:
    if goal.kind is GoalKind.KEEP and s.desired is None:
        return Sync.UNKNOWN
    if goal.kind is GoalKind.SUSPEND:
        return _sync_of_none(s)
    if goal.kind is GoalKind.LEAVE and s.desired:
        return Sync.OUT_OF_SYNC if s.replicas or s.owned else Sync.SYNCED
    if goal.kind is not GoalKind.ROLL or steps.records or steps.processes:
        return Sync.OUT_OF_SYNC
    return Sync.SYNCED if _is_complete(s, goal) else Sync.OUT_OF_SYNC


def _sync_of_none(s: ServiceContext) -> Sync:
    """Nothing runs, in sync with git. Unless git's own data about the service is missing or unusable."""
    if s.desired is None:
        return Sync.UNKNOWN
    return Sync.OUT_OF_SYNC if s.replicas or s.desired.spec is None else Sync.SYNCED


def _is_complete(s: ServiceContext, goal: Goal) -> bool:
    wanted = {g.digest: g.count for g in goal.generations}
    for replica in s.replicas:
        if replica.digest not in wanted or not s.is_available(replica):
            return False
        wanted[replica.digest] -= 1
    return not any(wanted.values())


def _lasting_failure(s: ServiceContext, goal: Goal, is_short: bool) -> Reason | None:
    """What keeps failing of that which this service needs now. A start counts while too few are there or start."""
    heading = (
        {generation.digest for generation in goal.generations}
        if is_short and not s.of(ReplicaPhase.STARTING)
        else set()
    )
    found = [one for one in s.failures if is_lasting(one) and one.action not in TIDYING]
    return next((why(one) for one in found if one.action not in (START, TRIAL) or one.subject in heading), None)


def _health(s: ServiceContext, goal: Goal, steps: Steps, blocked: tuple[Reason, ...]) -> Health:
    serving = sum(s.is_serving(replica) for replica in s.replicas)
    asked = sum(g.count for g in goal.generations) if goal.generations else (s.desired.replicas if s.desired else 0)
    count = f"{serving} of {asked} replicas serve"
    if failed := _lasting_failure(s, goal, is_short=bool(steps.text) or serving < asked):
        phase = HealthStatus.DEGRADED if s.replicas or s.promoted else HealthStatus.MISSING
        return Health(phase, Reason(failed.code, f"{failed.message}; {count}", failed.origin))
    if goal.why and (goal.kind is GoalKind.SUSPEND or (goal.kind is GoalKind.LEAVE and s.desired)):
        return Health(HealthStatus.SUSPENDED, goal.why)
    if goal.kind is GoalKind.LEAVE:
        return Health(
            HealthStatus.PROGRESSING,
            progress(ReasonCode.DELETING, steps.text or (goal.why.message if goal.why else "")),
        )
    if is_crash_looping(s.crashes, s.now):
        return Health(
            HealthStatus.DEGRADED,
            progress(ReasonCode.CRASH_LOOP_BACKOFF, f"crashed repeatedly in the last 10 minutes; {count}"),
        )
    if silent := [r for r in s.of(ReplicaPhase.READY, ReplicaPhase.HUNG) if r.silence]:
        return Health(HealthStatus.DEGRADED, _why_silent(silent[0], count))
    if goal.why and goal.why.code in STAGING_FAILED and serving < asked:
        return Health(HealthStatus.DEGRADED if s.replicas or s.promoted else HealthStatus.MISSING, goal.why)
    if blocked and not serving:
        return Health(
            HealthStatus.MISSING,
            progress(ReasonCode.BLOCKED, "Blocked: " + "; ".join(str(r.message) for r in blocked)),
        )
    if goal.rejected and not serving and not steps.text:
        return Health(HealthStatus.DEGRADED, goal.rejected.reason)
    if steps.text and not (goal.kind is GoalKind.KEEP and serving >= asked > 0):
        return Health(
            HealthStatus.PROGRESSING,
            progress(ReasonCode.STAGING if goal.stage else ReasonCode.PROGRESSING, f"{steps.text}; {count}"),
        )
    if serving >= asked > 0:
        return Health(HealthStatus.HEALTHY, progress(ReasonCode.SERVING, count))
    if not serving:
        return Health(
            HealthStatus.DEGRADED if s.replicas or s.promoted else HealthStatus.MISSING,
            goal.why or progress(ReasonCode.NOT_SERVING, count),
        )
    return Health(HealthStatus.DEGRADED, progress(ReasonCode.MINIMUM_REPLICAS_UNAVAILABLE, count))
