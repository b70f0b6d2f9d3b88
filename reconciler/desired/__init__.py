"""Manifests → the services of one target, bound to their runtimes: the desired state. Pure.

`on_cluster` is that of a cluster, all else that of a host: `build` goes through the tree, `context` holds what its
services share, `service` makes one of them. The others answer one question each: what runs (`spec`), how
(`serving_options`), where a field is written (`origins`), what this host cannot honour (`blockers`), and what must
not be concluded from what cannot be seen (`context`).
"""

from reconciler.desired.build import build_desired
from reconciler.desired.context import HOST_MODE, DesiredCache
from reconciler.desired.on_cluster import ClusterCache, build_cluster_desired
from reconciler.desired.secrets import as_kserve_sees

__all__ = ["HOST_MODE", "ClusterCache", "DesiredCache", "as_kserve_sees", "build_cluster_desired", "build_desired"]
