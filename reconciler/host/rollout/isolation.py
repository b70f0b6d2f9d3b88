"""Steps of a plan for which all services are looked at at once, each so that one that makes us raise costs only itself.

Pure, as what they stand for. Such a service is noted in `faults`, and is then left alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from reconciler.fault_isolation import Faults
from reconciler.host.health import Patience, ReplicaPhase, phase_of
from reconciler.host.rollout.builds import Marked, Quarantines, mark, unmark
from reconciler.host.rollout.canary import current_version
from reconciler.model import Action, Desired, FailedAction, Observed, Owned, Replica, ServiceId, service_of


def mark_each(
    observed: Observed, quarantines: Quarantines, failures: Collection[FailedAction], faults: Faults
) -> Marked:
    """For one that makes us raise it is as if the config had not changed."""
    try:
        return mark(observed, quarantines, failures)
    except Exception:
        clear = {}
        for key, change in observed.outdated.items():
            try:
                mark(replace(observed, outdated={key: change}), quarantines, failures)
                clear[key] = change
            except Exception as error:
                faults.note(key[0], error)
        return mark(replace(observed, outdated=clear), quarantines, failures)


def unmark_each(actions: Sequence[Action], marked: Marked, seen: Observed, faults: Faults) -> tuple[Action, ...]:
    """Half of what a service needs is not done: then all of it waits."""
    made: list[Action] = []
    waiting: set[ServiceId] = set()
    for action in actions:
        try:
            made.append(unmark(action, marked, seen))
        except Exception as error:
            if (service := service_of(action)) is None:
                raise
            waiting.add(service)
            faults.note(service, error)
    return tuple(action for action in made if service_of(action) not in waiting)


def current_versions(
    services: Iterable[Desired], owned: Mapping[ServiceId, Owned], faults: Faults
) -> tuple[Desired, ...]:
    """Of each service the version to be reached next."""
    return tuple(_current(one, owned, faults) if one.canary else one for one in services)


def _current(one: Desired, owned: Mapping[ServiceId, Owned], faults: Faults) -> Desired:
    try:
        return current_version(one, owned.get(one.id))
    except Exception as error:
        faults.note(one.id, error, one.origin)
        return one


def phase_or_ready(replica: Replica, now: float, patience: Patience, faults: Faults) -> ReplicaPhase:
    """What makes us raise stays where it is, and so does what it holds."""
    try:
        return phase_of(replica, now, patience)
    except Exception as error:
        faults.note(replica.service, error, replica.origin)
        return ReplicaPhase.READY
