"""Manifests → the services of one target, bound to their runtimes: what git wants there. Pure.

`build` goes through the tree, `scene` holds what its services share, `service` makes one of them. The others answer one
question each: what runs (`effective`), how (`wishes`), where a field is written (`origins`), what this host cannot
honour (`obstacles`), and what must not be concluded from what cannot be seen (`unseen`).
"""

from reconciler.desired.build import build_desired
from reconciler.desired.scene import HOST_MODE, DesiredCache
from reconciler.desired.secrets import as_kserve_sees
from reconciler.desired.unseen import part_of

__all__ = ["HOST_MODE", "DesiredCache", "as_kserve_sees", "build_desired", "part_of"]
