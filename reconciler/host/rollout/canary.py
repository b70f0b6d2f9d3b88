"""A service with a second version (`spec.canary[]`): which of the two is rolled out next.

First the service itself, until that is promoted; from then on the other version, as a canary of what is promoted. One
version thus never costs the other a replica, and a canary that fails is quarantined like any other digest.
"""

from __future__ import annotations

from reconciler.model import Desired, Owned


def current_version(service: Desired, owned: Owned | None) -> Desired:
    """The version to be reached next."""
    return service.versions[-1] if service.canary and _is_promoted(service, owned) else service


def _is_promoted(service: Desired, owned: Owned | None) -> bool:
    promoted = owned.promoted if owned else None
    if promoted is None or not service.replicas or service.not_here:
        return False
    told = (service.digest, service.replicas, service.drain_timeout, service.origin.file)
    return told == (promoted.digest, promoted.replicas, promoted.drain_timeout, promoted.origin.file)
