"""Manifests → the services of one target, bound to their runtimes: the desired state. Pure.

`build` goes through the tree, `context` holds what its services share, `service` makes one of them. The others answer
one question each: what runs (`spec`), how (`serving_options`), where a field is written (`origins`), what this host
cannot honour (`blockers`), and what must not be concluded from what cannot be seen (`prune_safety`).
"""

from reconciler.desired.build import build_desired
from reconciler.desired.context import HOST_MODE, DesiredCache
from reconciler.desired.secrets import as_kserve_sees

__all__ = ["HOST_MODE", "DesiredCache", "as_kserve_sees", "build_desired"]
