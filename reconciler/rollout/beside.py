"""A service with a second version beside it (`spec.canary[]`), as rollouts see it: one wish at a time.

First the service itself, until that is promoted; from then on the other version, as a canary of what is promoted. One
version thus never costs the other a replica, and a canary that fails is quarantined like any other digest.
"""

from __future__ import annotations

from dataclasses import replace

from reconciler.model import Desired, Owned


def wishes_of(service: Desired) -> tuple[Desired, ...]:
    """Everything that may be wanted of a service."""
    return (service,) if service.canary is None else (service, _canary_of(service))


def wish_now(service: Desired, owned: Owned | None) -> Desired:
    """What is to be reached next."""
    return _canary_of(service) if service.canary is not None and _is_promoted(service, owned) else service


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
        canary=None,
        keeps_stable=True,
    )
