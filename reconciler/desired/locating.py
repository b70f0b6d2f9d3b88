"""Where what KServe's rules complain of is written: by a service, or by its runtime. Pure."""

from __future__ import annotations

from collections.abc import Callable

from reconciler.desired.origins import Origins
from reconciler.kserve.resolve import Issue, Resolved
from reconciler.manifests import Manifest, Manifests
from reconciler.model import Origin

_RUNTIMES = ("ServingRuntime", "ClusterServingRuntime")


def locator(manifests: Manifests, default_namespace: str = "default") -> Callable[[Manifest, Resolved, Issue], Origin]:
    """Finds the line of an issue about a service, which is given with what it became."""
    runtimes = {
        (each.kind, each.namespace or default_namespace if each.kind == "ServingRuntime" else "", each.name): each
        for each in manifests.of_kind(*_RUNTIMES)
    }

    def locate(service: Manifest, resolved: Resolved, issue: Issue) -> Origin:
        ref = resolved.runtime
        runtime = runtimes.get((ref.kind, ref.namespace, ref.name)) if ref else None
        return Origins(service, runtime).of_issue(issue, resolved.pod)

    return locate
