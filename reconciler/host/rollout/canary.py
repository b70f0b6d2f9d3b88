"""A service with a second version beside it (`spec.canary[]`), as rollouts see it: one wish at a time.

First the service itself, until that is promoted; from then on the other version, as a canary of what is promoted. One
version thus never costs the other a replica, and a canary that fails is quarantined like any other digest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from reconciler.model import Desired, Owned, ServiceId


def all_wishes(services: tuple[Desired, ...]) -> tuple[Desired, ...]:
    """Everything that may be wanted: each service, and its second version after it."""
    return tuple(wish for one in services for wish in ((one, _canary_of(one)) if one.canary else (one,)))


def wishes_now(services: tuple[Desired, ...], owned: Mapping[ServiceId, Owned]) -> tuple[Desired, ...]:
    """What is to be reached next: one wish for each service."""
    return tuple(_canary_of(one) if one.canary and _is_promoted(one, owned.get(one.id)) else one for one in services)


def _is_promoted(service: Desired, owned: Owned | None) -> bool:
    promoted = owned.promoted if owned else None
    if promoted is None or not service.replicas or service.not_here:
        return False
    told = (service.digest, service.replicas, service.drain_timeout, service.origin.file)
    return told == (promoted.digest, promoted.replicas, promoted.drain_timeout, promoted.origin.file)


def _canary_of(service: Desired) -> Desired:
    other = service.canary
    if other is None:
        return service
    return replace(
        service,
        spec=other.spec,
        digest=other.digest,
        replicas=other.replicas,
        canary_percent=other.percent,
        argument_origins=other.argument_origins,
        blocked=other.blocked,
        variable_origins=other.variable_origins,
        resources_origin=other.resources_origin,
        mount_origins=other.mount_origins,
        canary=None,
        keeps_stable=True,
    )
