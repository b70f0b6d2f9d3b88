"""Hung replicas: replaced once something else serves, or at once where there is no room for their successor."""

from __future__ import annotations

from reconciler.host.health import ReplicaPhase, failure
from reconciler.host.rollout.context import ServiceContext
from reconciler.host.rollout.goal import Goal, GoalKind
from reconciler.host.rollout.steps import SOON, Steps
from reconciler.model import ReasonCode, Stop


def end_hung(s: ServiceContext, goal: Goal, steps: Steps) -> None:
    """One alone stays while its successor starts: it may come back to life, and stopping it gains nothing."""
    is_wanted = goal.kind not in (GoalKind.LEAVE, GoalKind.SUSPEND)
    is_replaced = bool(s.of(ReplicaPhase.PLANNED, ReplicaPhase.STARTING) or steps.started())
    waits = is_wanted and is_replaced and not any(map(s.is_serving, s.replicas))
    for replica in s.of(ReplicaPhase.HUNG):
        _, text = failure(replica, s.now, s.patience) or (ReasonCode.HUNG, "it is hung")
        if waits and s.is_proven(replica.digest) and replica.draining_at is None:
            steps.say(f"{replica.id.serial} is replaced once its successor serves: {text}")
            continue
        if s.is_beside_a_start(replica):
            steps.say(f"{replica.id.serial} is hung; it is stopped once its neighbour on the GPU has started")
            steps.look(s.now + SOON)
            continue
        steps.processes.append(Stop(replica.id, text, force=True, cut=replica.in_flight or 0))
        steps.say(f"cleaning up {replica.id.serial}: {text}")
        steps.look(s.now + SOON)
