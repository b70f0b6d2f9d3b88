"""How a target stands, on every page that shows it. Pure."""

from __future__ import annotations

from reconciler.report.status import Document


def target_state(target: Document) -> Document:
    """Which one it is, and whether what is shown of it is known to be true now."""
    return {
        "name": target["name"],
        "kind": target["kind"],
        "reachable": target["reachable"],
        # Until a pass has looked at it, it is neither reachable nor away.
        "isKnown": target["observedAt"] is not None,
        # Then nothing is known of it either, but what runs there is as reachable as before.
        "passFailed": bool(target["passError"]),
        "reason": target["passError"] or target["reason"],
        "observedAt": target["observedAt"],
        "awaySince": target["awaySince"],
    }
