"""What is known of each service, put together from what is known of all."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

from reconciler.fault_isolation import Faults
from reconciler.host.health import Patience, ReplicaPhase
from reconciler.host.rollout.context import ServiceContext
from reconciler.host.rollout.goal import standing
from reconciler.host.rollout.isolation import phase_or_ready
from reconciler.host.rollout.pruning import reason_to_keep, reason_to_leave, reason_to_stay
from reconciler.model import (
    NO_ORIGIN,
    Desired,
    DesiredState,
    FailedAction,
    Holds,
    Observed,
    Owned,
    Quarantine,
    Reason,
    Replica,
    Restart,
    ServiceId,
)


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the plan of one target is made of, each service in the version to be reached next.

    Services that make us raise are noted in `faults`.
    """

    desired: DesiredState
    observed: Observed
    holds: Holds
    patience: Patience
    faults: Faults
    failures: Collection[FailedAction] = ()

    def phase_of(self, replica: Replica) -> ReplicaPhase:
        return phase_or_ready(replica, self.observed.at, self.patience, self.faults)


@dataclass(frozen=True, slots=True)
class _ByService:
    """The same, found by service. `known` have been here before."""

    desired: Mapping[ServiceId, Desired]
    replicas: Mapping[ServiceId, Sequence[Replica]]
    quarantines: Mapping[ServiceId, Mapping[str, Quarantine]]
    failures: Mapping[ServiceId, Sequence[FailedAction]]
    of_all: tuple[FailedAction, ...]
    known: Set[ServiceId]
    starting_on: frozenset[str]
    all_died: bool


def make_contexts(given: Inputs) -> Iterator[ServiceContext]:
    """One for each service that git names or that is here, in no order."""
    found = _by_service(given)
    for key in found.desired.keys() | found.known | given.observed.routes.keys():
        yield _context(key, given, found)


def _by_service(given: Inputs) -> _ByService:
    replicas: dict[ServiceId, list[Replica]] = {}
    for replica in sorted(given.observed.replicas, key=lambda r: r.id):
        replicas.setdefault(replica.service, []).append(replica)
    quarantines: dict[ServiceId, dict[str, Quarantine]] = {}
    for (service, digest), quarantine in given.holds.quarantines.items():
        quarantines.setdefault(service, {})[digest] = quarantine
    return _ByService(
        desired={service.id: service for service in given.desired.services},
        replicas=replicas,
        quarantines=quarantines,
        failures=_failures(given.failures),
        of_all=tuple(one for one in given.failures if not one.services),
        known=replicas.keys() | given.observed.owned.keys(),
        starting_on=frozenset(_starting_on(given)),
        all_died=_have_all_died(given.observed),
    )


def _context(key: ServiceId, given: Inputs, found: _ByService) -> ServiceContext:
    observed, want = given.observed, found.desired.get(key)
    owned, replicas = observed.owned.get(key), tuple(found.replicas.get(key, ()))
    preflight = observed.preflights.get(want.digest) if want else None
    quarantines: Mapping[str, Quarantine] = {}
    keep, leaving = None, None
    try:
        quarantines = standing(found.quarantines.get(key, {}), want, preflight)
        keep, leaving = _keep_or_leave(key, want, owned, replicas, given, found)
    except Exception as error:
        given.faults.note(key, error, want.origin if want else NO_ORIGIN)
    return ServiceContext(
        id=key,
        desired=want,
        owned=owned,
        replicas=replicas,
        capacity=observed.capacity,
        revision=given.desired.revision,
        now=observed.at,
        patience=given.patience,
        quarantines=quarantines,
        preflight=preflight,
        asking=want is not None and want.digest in observed.preflighting,
        blockers=observed.blockers.get(want.digest, ()) if want else (),
        keep=keep,
        why_empty=given.holds.why_empty,
        unschedulable=given.holds.unschedulable,
        route=observed.routes.get(key),
        starting_on=found.starting_on,
        staging=observed.staging,
        all_died=found.all_died,
        failures=(*found.failures.get(key, ()), *found.of_all) if given.failures else (),
        images=observed.images,
        leaving=leaving,
    )


def _keep_or_leave(
    key: ServiceId,
    want: Desired | None,
    owned: Owned | None,
    replicas: tuple[Replica, ...],
    given: Inputs,
    found: _ByService,
) -> tuple[Reason | None, Reason | None]:
    """Why what git does not want here stays, and why it goes."""
    if want is not None:
        return reason_to_stay(given.desired, want), None
    keep = reason_to_keep(given.desired, owned, replicas, found.known)
    return keep, reason_to_leave(given.desired, key, owned, replicas)


def _failures(failures: Collection[FailedAction]) -> Mapping[ServiceId, list[FailedAction]]:
    found: dict[ServiceId, list[FailedAction]] = {}
    for failure in failures:
        for service in failure.services:
            found.setdefault(service, []).append(failure)
    return found


def _starting_on(given: Inputs) -> Iterator[str]:
    for replica in given.observed.replicas:
        shares = replica.spec.resources.gpu_share_millis
        if shares and given.phase_of(replica) is ReplicaPhase.STARTING:
            yield from replica.lease.gpus


def _have_all_died(observed: Observed) -> bool:
    """Did everything that we keep here end at once? No commit does that: it counts as a restart of the host.

    Either the proxy is gone as well, or several services are, one of which had proved itself.
    """
    kept = [r for r in observed.replicas if r.spawned and r.stopping_at is None and not r.rebooted]
    if not kept or any(r.alive and r.restarted is not Restart.CRASHED for r in kept):
        return False
    return not observed.proxy_ready or (
        len({r.service for r in kept}) > 1 and any(_is_promoted(observed, r) for r in kept)
    )


def _is_promoted(observed: Observed, replica: Replica) -> bool:
    owned = observed.owned.get(replica.service)
    return owned is not None and owned.promoted is not None and owned.promoted.digest == replica.digest
