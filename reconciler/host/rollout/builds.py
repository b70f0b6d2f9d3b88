"""Replicas of one digest that differ by what the config made of it: to a rollout they are of different digests.

`mark` names older ones `DIGEST~LABEL`, so that everything that is decided by digest holds for them as well: what serves
goes on until its successor is promoted, and a failure brings the older one back. `unmark` makes actions of it that
records and history understand.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from reconciler.host.translation import MARK, build_of, differences, is_current, label
from reconciler.model import (
    Action,
    Drain,
    FailedAction,
    Observed,
    Outdated,
    Owned,
    Promote,
    Promoted,
    Quarantine,
    Reject,
    Replica,
    ServiceId,
    Start,
    Stop,
)

# Where nothing older can come back, what failed is tried again.
_RETRY_SECONDS = 60.0

Key = tuple[ServiceId, str]
Quarantines = Mapping[Key, Quarantine]


@dataclass(frozen=True, slots=True)
class Marked:
    """What a plan is made of, and `why` replicas of a service are outdated though git says nothing new."""

    observed: Observed
    quarantines: Quarantines
    failures: Collection[FailedAction]
    why: Mapping[ServiceId, tuple[str, ...]]


def mark(observed: Observed, quarantines: Quarantines, failures: Collection[FailedAction]) -> Marked:
    """The same, with older builds distinguished by their digests."""
    outdated = observed.outdated
    if not outdated:
        return Marked(observed, quarantines, [one for one in failures if MARK not in one.subject], {})
    replicas = tuple(_mark_replica(each, outdated) for each in observed.replicas)
    owned = dict(observed.owned)
    for (service, digest), change in outdated.items():
        before = owned.get(service)
        if before is None or before.promoted is None or not _is_older(before.promoted, digest, change):
            continue
        owned[service] = replace(before, promoted=_mark_promoted(before.promoted, replicas, service, change))
    seen = dict(_seen_now(quarantines, outdated, owned, observed.at))
    failed = [_failure_now(one, outdated) for one in failures]
    return Marked(replace(observed, replicas=replicas, owned=owned), seen, failed, _reasons(observed))


def unmark(action: Action, marked: Marked, observed: Observed) -> Action:
    """The action as a target and its records know it."""
    match action:
        case Start():
            return _unmark_start(action, marked, observed)
        case Promote() if MARK in action.promoted.digest:
            return replace(action, promoted=replace(action.promoted, digest=_plain(action.promoted.digest)))
        case Reject():
            return _unmark_reject(action, observed)
        case Drain() | Stop() if why := marked.why.get(action.replica.service):
            superseded = action.reason.startswith("superseded by")
            return replace(action, reason=f"superseded: {'; '.join(why)}") if superseded else action
        case _:
            return action


def _unmark_start(action: Start, marked: Marked, observed: Observed) -> Start:
    service = action.replica.service
    if MARK in action.digest:
        owned = observed.owned.get(service)
        before = owned.promoted.translation if owned and owned.promoted else ()
        return replace(action, digest=_plain(action.digest), translation=before)
    why, change = marked.why.get(service), observed.outdated.get((service, action.digest))
    return replace(action, reason="; ".join(why), translation=change.translation) if why and change else action


def _unmark_reject(action: Reject, observed: Observed) -> Reject:
    """What was promoted before is not at fault: what the config makes of it now is."""
    failed = action.quarantine
    change, owned = observed.outdated.get((failed.service, failed.digest)), observed.owned.get(failed.service)
    if change is None or owned is None or owned.promoted is None or owned.promoted.digest != failed.digest:
        return action
    return replace(action, quarantine=replace(failed, digest=build_of(failed.digest, change.translation)))


def _mark_replica(replica: Replica, outdated: Mapping[Key, Outdated]) -> Replica:
    change = outdated.get((replica.service, replica.digest))
    if change is None or is_current(replica.translation, change.translation):
        return replica
    # Equal arguments make it none of today's.
    return replace(replica, digest=build_of(replica.digest, replica.translation), parsed="")


def _is_older(promoted: Promoted, digest: str, change: Outdated) -> bool:
    return promoted.digest == digest and not is_current(promoted.translation, change.translation)


def _mark_promoted(
    promoted: Promoted, replicas: tuple[Replica, ...], service: ServiceId, change: Outdated
) -> Promoted | None:
    """What can come back; None: nothing of it is left that could."""
    older = build_of(promoted.digest, promoted.translation)
    if change.restorable:
        return replace(promoted, digest=older)
    living = [r for r in replicas if r.service == service and r.alive and MARK in r.digest]
    serving = [r for r in living if r.draining_at is None and r.stopping_at is None]
    if not serving:
        return None
    return replace(promoted, digest=older, replicas=min(promoted.replicas, len(serving)))


def _seen_now(
    quarantines: Quarantines,
    outdated: Mapping[Key, Outdated],
    owned: Mapping[ServiceId, Owned],
    now: float,
) -> Mapping[Key, Quarantine]:
    """What failed as the config makes it now stands in the way; what failed as it was made before does not."""
    found = {}
    for (service, digest), quarantine in quarantines.items():
        plain, _, build = digest.partition(MARK)
        change = outdated.get((service, plain))
        if not build:
            found[service, digest] = quarantine
        elif change is not None and build == label(change.translation):
            last = owned.get(service)
            if (last and last.promoted) or now - quarantine.at < _RETRY_SECONDS:
                found[service, plain] = replace(quarantine, digest=plain)
    return found


def _failure_now(failure: FailedAction, outdated: Mapping[Key, Outdated]) -> FailedAction:
    """What failed as the config makes it now, failed for the digest that git names."""
    plain, _, build = failure.subject.partition(MARK)
    changes = (outdated.get((service, plain)) for service in failure.services)
    is_now = any(change is not None and build == label(change.translation) for change in changes)
    return replace(failure, subject=plain) if is_now else failure


def _reasons(observed: Observed) -> Mapping[ServiceId, tuple[str, ...]]:
    """By service, what differs between its oldest outdated build and today's."""
    found: dict[ServiceId, dict[str, None]] = {}
    for (service, digest), change in observed.outdated.items():
        builds = [r.translation for r in observed.replicas if r.service == service and r.digest == digest]
        owned = observed.owned.get(service)
        if owned and owned.promoted and owned.promoted.digest == digest:
            builds.append(owned.promoted.translation)
        for before in builds:
            if before:
                found.setdefault(service, {}).update(dict.fromkeys(differences(before, change.translation)))
    return {service: tuple(lines) for service, lines in found.items()}


def _plain(digest: str) -> str:
    return digest.partition(MARK)[0]
