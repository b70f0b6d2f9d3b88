"""Where a service is heading: git's version or the last good one, and why not git's if not git's. Pure.

The words are those of hosts. Here KServe runs the replicas, so a goal is which InferenceService is to be applied.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from reconciler.cluster.health.problems import Fault
from reconciler.cluster.health.rollout import RolloutState, RolloutStatus
from reconciler.cluster.rollout.last_good import FailedTry, LastGood, ServiceRecord
from reconciler.model import Desired, Preflight, Quarantine, Reason, ReasonCode, ServiceId, progress
from reconciler.model.backoff import backoff

DELETED = progress(ReasonCode.DELETING, "deleted in git")
NO_REPLICAS = progress(ReasonCode.SCALED_TO_ZERO, "git asks for 0 replicas")
# Seconds before a version is tried again that its cluster failed: each try costs pods, and may cost one that serves.
_FIRST_PAUSE, _LONGEST_PAUSE = 60.0, 3600.0


class GoalKind(StrEnum):
    """What is to be applied."""

    ROLL = "Roll"  # what git says
    KEEP = "Keep"  # nothing: git cannot be followed now, so what is there stays
    RESTORE = "Restore"  # the last good version, for git's failed
    GIVE_UP = "GiveUp"  # nothing: git's version failed, and there is no last good one
    SUSPEND = "Suspend"  # what git says, which asks for no replicas
    LEAVE = "Leave"  # git does not name it any more: it is deleted


@dataclass(frozen=True, slots=True)
class Situation:
    """All that is known of one service.

    `kept` says why it stays although git does not show it. `live_digest` is the digest of what was applied last, as
    far as that is still there; empty: nothing of it. `outcome` is how the rollout of that stands. `asks_engine`: its
    cluster lets an engine be asked before an apply; `preflight` is the answer, and `is_asking` that it is awaited.
    `blocked` are reasons of the cluster why a new version cannot start now, and `waits` why it is not its turn.
    """

    id: ServiceId
    desired: Desired | None
    record: ServiceRecord
    revision: str
    now: float
    kept: Reason | None = None
    live_digest: str = ""
    outcome: RolloutStatus | None = None
    asks_engine: bool = False
    preflight: Preflight | None = None
    is_asking: bool = False
    blocked: tuple[Reason, ...] = ()
    waits: Reason | None = None


@dataclass(frozen=True, slots=True)
class Goal:
    """`why` is why git is not followed. `ask` wants a preflight verdict.

    `reject` is a digest to quarantine right now, and `rejected` the quarantine that holds. `failed` is a try to note.
    `promote`: git's version has proved itself. `version` is what to restore. `again_at` is when git's is tried again.
    """

    kind: GoalKind
    why: Reason | None = None
    blocked: tuple[Reason, ...] = ()
    ask: bool = False
    reject: Quarantine | None = None
    rejected: Quarantine | None = None
    failed: FailedTry | None = None
    promote: bool = False
    version: LastGood | None = None
    again_at: float | None = None


def find_goal(s: Situation) -> Goal:
    """Decide where the service is heading."""
    want = s.desired
    if want is None or want.not_here:
        if s.kept is None:
            return Goal(GoalKind.LEAVE, why=want.not_here[0] if want else DELETED)
        return _keep(s.kept)
    if want.problems:
        return _keep(want.problems[0])
    if want.replicas == 0:
        return Goal(GoalKind.SUSPEND, why=NO_REPLICAS)
    if found := s.record.quarantine_of(want.digest):
        return _restore(s, found)
    if s.live_digest == want.digest:
        return _goal_of_running(s, want)
    if s.record.is_proven(want.digest):
        blocked = (*want.blocked, *s.blocked)
        return _keep(blocked[0], blocked) if blocked else Goal(GoalKind.ROLL)
    return _goal_of_new(s, want)


def _goal_of_running(s: Situation, want: Desired) -> Goal:
    """Before its promotion, a failure of it is the commit's fault or the cluster's; after it, an incident."""
    outcome = s.outcome
    if outcome is None or outcome.state not in (RolloutState.FAILED, RolloutState.SUCCEEDED):
        return Goal(GoalKind.ROLL)
    if outcome.state is RolloutState.SUCCEEDED:
        return Goal(GoalKind.ROLL, promote=True)
    if s.record.is_proven(want.digest):
        return Goal(GoalKind.ROLL)
    if outcome.is_quarantined:
        return _reject(s, want, outcome.reason)
    if outcome.fault is Fault.CLUSTER and s.record.last_good is not None:
        return _try_later(s, _failed_now(s, want, outcome.reason), is_new=True)
    return Goal(GoalKind.ROLL)


def _goal_of_new(s: Situation, want: Desired) -> Goal:
    """A version that has not proved itself: all that can be known is asked before anything is touched."""
    failed = s.record.failed
    if failed and failed.digest == want.digest and _due(failed) > s.now and s.record.last_good is not None:
        return _try_later(s, failed)
    if blocked := (*want.blocked, *s.blocked):
        return _keep(blocked[0], blocked)
    if s.preflight and s.preflight.reasons:
        return _reject(s, want, _joined(s.preflight.reasons))
    if s.asks_engine and s.preflight is None:
        why = Reason(ReasonCode.PREFLIGHT_PENDING, "validating the arguments with the image's own vLLM", want.origin)
        return replace(_keep(why), ask=not s.is_asking)
    if s.waits:
        return _keep(s.waits)
    return Goal(GoalKind.ROLL)


def _keep(why: Reason, blocked: tuple[Reason, ...] = ()) -> Goal:
    return Goal(GoalKind.KEEP, why, blocked)


def _reject(s: Situation, want: Desired, reason: Reason) -> Goal:
    where = reason if reason.origin else replace(reason, origin=want.origin)
    rejected = Quarantine(s.id, want.digest, where, s.revision, s.now)
    return replace(_restore(s, rejected), reject=rejected)


def _restore(s: Situation, rejected: Quarantine) -> Goal:
    good = s.record.last_good
    if good is None or good.digest == rejected.digest:
        return Goal(GoalKind.GIVE_UP, rejected.reason, rejected=rejected)
    return Goal(GoalKind.RESTORE, rejected.reason, rejected=rejected, version=good)


def _failed_now(s: Situation, want: Desired, reason: Reason) -> FailedTry:
    before = s.record.failed
    tries = before.tries + 1 if before and before.digest == want.digest else 1
    return FailedTry(want.digest, reason if reason.origin else replace(reason, origin=want.origin), s.now, tries)


def _try_later(s: Situation, failed: FailedTry, is_new: bool = False) -> Goal:
    """Its cluster failed it on trial: nothing is quarantined, and the last good version is back until the next try."""
    found = Goal(GoalKind.RESTORE, failed.reason, (failed.reason,), version=s.record.last_good, again_at=_due(failed))
    return replace(found, failed=failed) if is_new else found


def _due(failed: FailedTry) -> float:
    return failed.at + backoff(failed.tries, _FIRST_PAUSE, _LONGEST_PAUSE)


def _joined(reasons: tuple[Reason, ...]) -> Reason:
    first = reasons[0]
    return replace(first, message="; ".join([first.message, *map(str, reasons[1:])]))
