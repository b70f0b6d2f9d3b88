"""Actions that failed: when to try them again, and what that means for a service. Pure.

A failure that only a commit or the host can end (`lasting`), or that came three times in a row, is a verdict: the last
good digest comes back, and the error is reported. Only what blames the spec is quarantined. Everything else is retried
more and more slowly, and most slowly where a try costs a replica that serves.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from reconciler.host.translation import MARK, build_of
from reconciler.model import (
    Action,
    DesiredState,
    EnsureProxy,
    FailedAction,
    Forget,
    NoteFailure,
    Observed,
    Outcome,
    Plan,
    Promote,
    Reason,
    ReasonCode,
    Result,
    ServiceId,
    SetRoutes,
    Start,
    Unstage,
    action_name,
    host_reason,
    kind_name,
    service_of,
)
from reconciler.model.backoff import backoff

Failures = Mapping[tuple[str, str, tuple[ServiceId, ...]], FailedAction]
# The second is no action: a replica that failed on trial.
START, TRIAL = kind_name(Start), "trial"
_TRIES_THAT_COUNT = 3
# Seconds before the second try, and at most between two.
_QUICK, _LONGEST_QUICK = 0.5, 30.0
_COSTLY, _LONGEST_COSTLY = 60.0, 3600.0
# Holds up no service.
TIDYING = (kind_name(Unstage),)
# The planner knows by itself when these are due, or nothing can wait for them.
_NEVER_WAIT = tuple(map(kind_name, (Start, SetRoutes, EnsureProxy, NoteFailure)))


def is_lasting(failure: FailedAction) -> bool:
    """Is it more than bad luck?"""
    return failure.lasting or failure.tries >= _TRIES_THAT_COUNT


def retry_at(failure: FailedAction, now: float, costly: bool = False) -> float:
    """When the next try is due. `costly`: something that serves would have to go for it."""
    first, longest = (_COSTLY, _LONGEST_COSTLY) if costly else (_QUICK, _LONGEST_QUICK)
    # What lies ahead was written before the clock was set back.
    return min(failure.at, now) + backoff(failure.tries, first, longest)


def why(failure: FailedAction) -> Reason:
    """As text that does not change from try to try."""
    if failure.action == START:
        return host_reason(ReasonCode.CANNOT_START, f"cannot be started: {failure.error}")
    if failure.action == TRIAL:
        return host_reason(ReasonCode.HOST_FAILED, f"failed because of this host, not of the commit: {failure.error}")
    what = f"{failure.action.replace('_', ' ')} {failure.subject}".rstrip()
    return host_reason(ReasonCode.ACTION_FAILED, f"{what} fails: {failure.error}")


def waiting(known: Failures, plan: Plan) -> tuple[Action, ...]:
    """Actions of a plan that failed before and are not due yet."""
    if not known:
        return ()
    due = {key: retry_at(failure, plan.at) for key, failure in known.items() if failure.action not in _NEVER_WAIT}
    return tuple(action for action in plan.actions if due.get(_key(action), plan.at) > plan.at)


def dues(known: Failures, plan: Plan) -> list[float]:
    """When those actions of a plan are due that failed. The planner itself says when starts are."""
    asked = {_key(action) for action in plan.actions}
    return [retry_at(failure, plan.at) for key, failure in known.items() if key in asked]


def count(known: Failures, plan: Plan, results: Iterable[Result]) -> Failures:
    """What has failed by now: of starts until one succeeds, of all others while the plan still asks for them."""
    found = dict(known)
    for result in results:
        action, key = result.action, _key(result.action)
        if result.outcome is Outcome.FAILED:
            found[key] = _failed(found.get(key), key, result, plan.at)
        elif result.outcome is Outcome.DONE:
            found.pop(key, None)
            if isinstance(action, NoteFailure):
                failed = failed_on_trial(found.values(), action, plan.at)
                found[failed.action, failed.subject, failed.services] = failed
            elif isinstance(action, Forget) or (isinstance(action, Promote) and action.promoted.replicas):
                found = {each: failure for each, failure in found.items() if action.service not in failure.services}
    asked = {_key(action) for action in plan.actions}
    return {key: failure for key, failure in found.items() if failure.action in (START, TRIAL) or key in asked}


def still_wanted(known: Failures, desired: DesiredState, observed: Observed) -> Failures:
    """Without starts of digests that neither git nor a last good spec names any more."""
    wanted = {(one.id, one.digest) for one in desired.services}
    wanted |= {(one.id, one.canary.digest) for one in desired.services if one.canary}
    wanted |= {(one.id, one.promoted.digest) for one in observed.owned.values() if one.promoted}
    return {
        key: failure
        for key, failure in known.items()
        if failure.action not in (START, TRIAL) or any((one, _digest_of(failure)) in wanted for one in failure.services)
    }


def _digest_of(failure: FailedAction) -> str:
    return failure.subject.partition(MARK)[0]


def of_start(failures: Collection[FailedAction], digest: str) -> FailedAction | None:
    """Why a digest could not be started, or did not come up for its host's sake; the one that was tried most."""
    found = [one for one in failures if one.action in (START, TRIAL) and one.subject == digest]
    return max(found, key=lambda one: (one.blames_spec, is_lasting(one), one.tries), default=None)


def failed_on_trial(known: Collection[FailedAction], action: NoteFailure, at: float) -> FailedAction:
    """The failure that comes of this note, which may be written twice for one run."""
    service = action.replica.service
    before = [one for one in known if (one.action, one.subject, one.services) == (TRIAL, action.digest, (service,))]
    if not before:
        return FailedAction(TRIAL, action.digest, (service,), action.reason, at, lasting=True, run=action.run)
    if before[0].run == action.run:
        return before[0]
    return replace(before[0], error=action.reason, at=at, tries=before[0].tries + 1, run=action.run)


def _key(action: Action) -> tuple[str, str, tuple[ServiceId, ...]]:
    name = action_name(action)
    if isinstance(action, SetRoutes):
        return name, "", action.changed
    service = service_of(action)
    return name, _subject(action), (service,) if service else ()


def _subject(action: Action) -> str:
    if isinstance(action, Start):
        return build_of(action.digest, action.translation) if action.translation else action.digest
    replica = getattr(action, "replica", None)
    if replica:
        return str(replica.serial)
    return next((str(found) for name in ("object", "key", "image") if (found := getattr(action, name, ""))), "")


def _failed(
    before: FailedAction | None, key: tuple[str, str, tuple[ServiceId, ...]], result: Result, at: float
) -> FailedAction:
    name, subject, services = key
    tries = before.tries + 1 if before else 1
    return FailedAction(name, subject, services, result.error, at, tries, not result.retryable, result.blames_spec)
