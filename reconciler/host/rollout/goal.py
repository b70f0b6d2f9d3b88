"""Where a service is heading: which digests should run, how many of each, and why not git's if not git's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from reconciler.engines.digest import equivalent
from reconciler.host.capacity import impossible, too_few_gpus
from reconciler.host.health import ReplicaPhase
from reconciler.host.rollout.context import ServiceContext
from reconciler.host.rollout.failures import is_lasting, why
from reconciler.host.rollout.staging import Missing, missing_files, refusals, why_staging
from reconciler.model import (
    Desired,
    EffectiveSpec,
    Origin,
    Preflight,
    Promoted,
    Quarantine,
    Reason,
    ReasonCode,
    progress,
)

DELETED = progress(ReasonCode.DELETING, "deleted in git")
NO_REPLICAS = progress(ReasonCode.SCALED_TO_ZERO, "git asks for 0 replicas")
# What is said of files, which may be put there without a commit.
_OF_FILES = frozenset(
    {
        ReasonCode.MODEL_NOT_FOUND,
        ReasonCode.PATH_NOT_ALLOWED,
        ReasonCode.FOLDER_UNREADABLE,
        ReasonCode.FILE_NOT_FOUND,
        ReasonCode.FILE_DAMAGED,
    }
)


class GoalKind(StrEnum):
    """What kind of way lies ahead."""

    ROLL = "Roll"  # to what git says
    KEEP = "Keep"  # git cannot be followed now: keep what serves
    RESTORE = "Restore"  # git's digest failed: back to the last good one
    GIVE_UP = "GiveUp"  # git's digest failed, and there is no last good one
    SUSPEND = "Suspend"  # git asks for no replicas, or lets this host run none
    LEAVE = "Leave"  # git does not name it any more, or not for this host


@dataclass(frozen=True, slots=True)
class Generation:
    """One digest that should run, and how often."""

    digest: str
    spec: EffectiveSpec
    count: int
    origin: Origin
    canary: bool = False


@dataclass(frozen=True, slots=True)
class Goal:
    """`generations` should run; `stage` are files to fetch first; `ask` wants a preflight verdict.

    `reject` is a digest to quarantine right now. `again_at` is when git's digest is tried again.
    """

    kind: GoalKind
    generations: tuple[Generation, ...] = ()
    why: Reason | None = None
    blocked: tuple[Reason, ...] = ()
    stage: Missing = ()
    ask: bool = False
    reject: Quarantine | None = None
    rejected: Quarantine | None = None
    again_at: float | None = None


def find_goal(s: ServiceContext) -> Goal:
    """Decide where the service is heading."""
    want = s.desired
    may_leave = want is None or want.not_here
    if may_leave and s.kept is None:
        return Goal(GoalKind.LEAVE, why=joined(want.not_here) if want else s.leaving or DELETED)
    if s.why_empty:
        return Goal(GoalKind.SUSPEND, why=s.why_empty)
    if want is None or want.not_here:
        return _keep(s, s.keep)
    if want.spec is None:
        reason = (
            want.problems[0] if want.problems else Reason(ReasonCode.INVALID_DOCUMENT, "cannot be used", want.origin)
        )
        return _keep(s, reason)
    if want.replicas == 0:
        return Goal(GoalKind.SUSPEND, why=NO_REPLICAS)
    if s.unschedulable and _is_new(s, want):
        held = _keep(s, s.unschedulable, (s.unschedulable,))
        return replace(held, rejected=s.quarantines.get(want.digest))
    if s.is_proven(want.digest):
        return _goal_of_proven(s, want, want.spec)
    if want.digest in s.quarantines:
        return _restore(s, s.quarantines[want.digest])
    if blocked := _beyond(s, want, want.spec) + want.blocked:
        return _keep(s, blocked[0], blocked)
    return _goal_after_failure(s, want) or _goal_of_new(s, want, want.spec)


def _is_new(s: ServiceContext, want: Desired) -> bool:
    """Does git ask for what this host has not been promoted to yet: another digest, or more replicas?"""
    return s.promoted is None or s.promoted.digest != want.digest or want.replicas > s.promoted.replicas


def _goal_after_failure(s: ServiceContext, want: Desired) -> Goal | None:
    """Git's digest could not be started: back to the last good one, for good if the commit is to blame."""
    failed = s.start_failure(want.digest)
    if failed is None or not is_lasting(failed):
        return None
    reason = replace(why(failed), origin=want.origin)
    if failed.blames_spec:
        rejected = quarantine(s, want.digest, reason)
        return _restore(s, rejected, reject=rejected)
    if (due := s.start_due(want.digest)) > s.now:
        return replace(_keep(s, reason, (reason,)), again_at=due)
    return None


def standing(
    quarantines: Mapping[str, Quarantine], want: Desired | None, preflight: Preflight | None
) -> Mapping[str, Quarantine]:
    """Those that still hold: for files of git's digest only while something is missing, and what is missing now."""
    found = quarantines.get(want.digest) if want else None
    if found is None or found.reason.code not in _OF_FILES:
        return quarantines
    others = {digest: one for digest, one in quarantines.items() if digest != found.digest}
    if preflight is None or not preflight.reasons:
        return others
    return {**others, found.digest: replace(found, reason=joined(preflight.reasons))}


def quarantine(s: ServiceContext, digest: str, reason: Reason, words: tuple[str, ...] = ()) -> Quarantine:
    """The record of a digest that failed now."""
    return Quarantine(s.id, digest, reason, s.revision, s.now, words)


def _goal_of_proven(s: ServiceContext, want: Desired, spec: EffectiveSpec) -> Goal:
    goal = Goal(GoalKind.ROLL, (Generation(want.digest, spec, want.replicas, want.origin),))
    blocked = _beyond(s, want, spec) + want.blocked
    blocked += tuple(one for one in s.blockers if one.code is not ReasonCode.PREFLIGHT_FAILED)
    blocked += s.preflight.reasons if s.preflight else ()
    alive = [r for r in s.of(ReplicaPhase.STARTING, ReplicaPhase.READY) if r.digest == want.digest]
    if len(alive) >= want.replicas:
        return goal
    if blocked:
        return Goal(GoalKind.KEEP, (), blocked[0], blocked)
    if missing := missing_files(s, spec):
        return Goal(GoalKind.KEEP, (), why_staging(s, missing), refusals(s, missing), missing)
    return goal


def _goal_of_new(s: ServiceContext, want: Desired, spec: EffectiveSpec) -> Goal:
    """A digest that has not proved itself: files are fetched and the engine is asked before anything is touched."""
    running = any(
        r.digest == want.digest for r in s.of(ReplicaPhase.PLANNED, ReplicaPhase.STARTING, ReplicaPhase.READY)
    )
    if not running:
        if missing := missing_files(s, spec):
            return _keep(s, why_staging(s, missing), refusals(s, missing), stage=missing)
        if s.blockers and not (s.preflight and s.preflight.reasons):
            again = any(one.code is ReasonCode.PREFLIGHT_FAILED for one in s.blockers)
            return _keep(s, s.blockers[0], s.blockers, ask=again and not s.asking)
        if s.preflight is None:
            why = Reason(ReasonCode.PREFLIGHT_PENDING, "validating the arguments with the installed vLLM", want.origin)
            return _keep(s, why, ask=not s.asking)
        if reasons := s.preflight.reasons or _too_few_gpus(s, want, spec):
            failed = quarantine(s, want.digest, joined(reasons))
            return _restore(s, failed, reject=failed)
        if blocked := _too_large(s, want):
            return _keep(s, blocked[0], blocked)
    new = Generation(want.digest, spec, want.replicas, want.origin)
    if s.promoted and _runs_beside(s, want, spec):
        stable = last_good(s.promoted)
        return Goal(GoalKind.ROLL, (stable, Generation(new.digest, spec, new.count, new.origin, canary=True)))
    return Goal(GoalKind.ROLL, (new,))


def _runs_beside(s: ServiceContext, want: Desired, spec: EffectiveSpec) -> bool:
    """Does what is promoted stay, and share its requests?"""
    if want.keeps_stable:
        return True
    return want.canary_percent is not None and want.canary_percent < 100 and not _is_same(s, spec)


def _is_same(s: ServiceContext, spec: EffectiveSpec) -> bool:
    """Is it the last good spec, only written differently? Then there is nothing to try on a few requests first."""
    if s.promoted is None or s.preflight is None or not s.preflight.parsed:
        return False
    return s.promoted.parsed == s.preflight.parsed and equivalent(s.promoted.spec, spec)


def _beyond(s: ServiceContext, want: Desired, spec: EffectiveSpec) -> tuple[Reason, ...]:
    """What this host could not give even if it were empty."""
    where = want.resources_origin or want.origin
    return tuple(replace(one, origin=one.origin or where) for one in impossible(spec.resources, s.capacity))


def _too_few_gpus(s: ServiceContext, want: Desired, spec: EffectiveSpec) -> tuple[Reason, ...]:
    text = too_few_gpus(s.preflight.gpus, spec.resources) if s.preflight else ""
    return (Reason(ReasonCode.TOO_FEW_GPUS, text, want.origin),) if text else ()


def _too_large(s: ServiceContext, want: Desired) -> tuple[Reason, ...]:
    """Not the fault of the arguments alone: another GPU or other weights may change it, so nothing is quarantined."""
    if s.preflight is None or s.preflight.fit is None or not s.preflight.fit.refusal:
        return ()
    return (Reason(ReasonCode.DOES_NOT_FIT, s.preflight.fit.refusal, want.origin),)


def joined(reasons: tuple[Reason, ...]) -> Reason:
    """One reason that says all of them."""
    first = reasons[0]
    if len(reasons) == 1:
        return first
    return Reason(first.code, "; ".join([first.message, *(str(r) for r in reasons[1:])]), first.origin)


def _keep(
    s: ServiceContext, why: Reason | None, blocked: tuple[Reason, ...] = (), stage: Missing = (), ask: bool = False
) -> Goal:
    """Keep what serves. The last good digest may be started again; nothing is drained."""
    return Goal(GoalKind.KEEP, _promoted_only(s), why, blocked, stage, ask)


def _restore(s: ServiceContext, rejected: Quarantine, reject: Quarantine | None = None) -> Goal:
    generations = _promoted_only(s)
    if generations and generations[0].digest == rejected.digest:
        generations = ()
    kind = GoalKind.RESTORE if generations else GoalKind.GIVE_UP
    return Goal(kind, generations, rejected.reason, reject=reject, rejected=rejected)


def _promoted_only(s: ServiceContext) -> tuple[Generation, ...]:
    return (last_good(s.promoted),) if s.promoted else ()


def last_good(promoted: Promoted) -> Generation:
    """What was promoted, as often as it was."""
    return Generation(promoted.digest, promoted.spec, promoted.replicas, promoted.origin)
