"""The canary of a service: what runs next to the promoted version, and its share of requests. Pure."""

from __future__ import annotations

from typing import Any

from reconciler.model import Desired, Owned, Replica, ServiceRoute

Document = dict[str, Any]


def canary_document(desired: Desired | None, owned: Owned | None, route: ServiceRoute | None) -> Document | None:
    """None where git asks for no canary, or what it asks for is promoted.

    `percent` is what it gets now, 0 until it is ready; `desiredPercent` is what git gives it.
    """
    if desired is None or owned is None or owned.promoted is None:
        return None
    if desired.canary:
        digest, wanted = desired.canary.digest, desired.canary.percent
    elif desired.canary_percent is None or desired.canary_percent >= 100 or desired.digest == owned.promoted.digest:
        return None
    else:
        digest, wanted = desired.digest, desired.canary_percent
    serves = route is not None and any(not one.draining for one in route.canary)
    return {
        "digest": digest,
        "percent": route.canary_percent if route is not None and serves else 0,
        "desiredPercent": wanted,
    }


def is_canary(replica: Replica, canary: Document | None, route: ServiceRoute | None) -> bool:
    """Does the replica run the canary's digest, or is it still on the canary's side of the route?"""
    if canary and canary["digest"] == replica.digest:
        return True
    return route is not None and any(one.replica == replica.id for one in route.canary)
