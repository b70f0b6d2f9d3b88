"""One service: goal, steps, route and verdict together."""

from __future__ import annotations

from dataclasses import dataclass, replace

from reconciler.host.capacity import Ledger
from reconciler.host.rollout import lifecycle
from reconciler.host.rollout.context import ServiceContext
from reconciler.host.rollout.departed import farewell, is_departed, verdict_of_departed
from reconciler.host.rollout.goal import Generation, Goal, find_goal
from reconciler.host.rollout.hung import end_hung
from reconciler.host.rollout.move import move
from reconciler.host.rollout.needs import need_of
from reconciler.host.rollout.route import route_of
from reconciler.host.rollout.staging import begin_staging
from reconciler.host.rollout.steps import Steps
from reconciler.host.rollout.verdict import verdict_of
from reconciler.model import Action, AskPreflight, ReasonCode, Reject, ServicePlan, ServiceRoute

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
        records=tuple(steps.records),
        route=route_of(s, goal, steps),
        processes=tuple(steps.processes),
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
        steps.records.append(Reject(goal.reject, str(goal.reject.reason)))
    begin_staging(s, goal.stage, steps)
    if goal.again_at is not None:
        steps.look(goal.again_at)
    want = s.desired
    if goal.ask and want and want.spec:
        reason = "validating the arguments with the installed vLLM"
        steps.processes.append(AskPreflight(s.id, want.digest, want.spec, want.origin, reason))
    if goal.why and goal.why.code is ReasonCode.PREFLIGHT_FAILED:
        steps.look(s.now + _PREFLIGHT_LOOK)
    elif goal.ask or (goal.why and goal.why.code is ReasonCode.PREFLIGHT_PENDING):
        steps.say("preflight: validating the arguments with the installed vLLM")
        steps.look(s.now + 5)
