"""The namespace of our own objects, which git must not reach. Pure.

Whoever may push would else write the inventory, so that anything counts as ours and is deleted; replace the credentials
for git; or run a pod with the daemon's service account.
"""

from __future__ import annotations

from typing import Final

from reconciler.model import ObjectId

_PREFIX: Final = "reconciler-"
"""Names of inventories, leases and records begin so."""
_OF_OURS: Final = frozenset({("", "ConfigMap"), ("", "Secret"), ("coordination.k8s.io", "Lease")})


def why_not_allowed(one: ObjectId, own: str, is_shared: bool) -> str:
    """Why git may not have this object; empty: it may. `own` is the namespace of our own objects; `is_shared` where the
    config has it as the namespace of services as well: then only what is ours by name is kept from git."""
    if is_shared:
        is_ours = one.namespace == own and (one.group, one.kind) in _OF_OURS and one.name.startswith(_PREFIX)
        return f"names that begin with {_PREFIX} belong to our own objects in {own}; rename it" if is_ours else ""
    if own not in (one.namespace, one.name if (one.group, one.kind) == ("", "Namespace") else ""):
        return ""
    return f"{own} is the namespace of our own objects, and nothing of it is taken from git; use another namespace"
