"""Where what KServe's rules complain of is written: by a service, or by its runtime. Pure."""

from __future__ import annotations

from collections.abc import Callable

from reconciler.desired.origins import CONTAINER, Origins
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
        origins = Origins(service, runtime)
        match issue.pod_path:
            case ("containers", int(number), "args", int(index)) if _has_sources(resolved, number, index):
                return origins.of_argument(*resolved.argument_sources[index])
        return origins.of_issue(issue, resolved.pod)

    return locate


def _has_sources(resolved: Resolved, number: int, index: int) -> bool:
    """Is it an argument of the model's container? Only of these it is known who wrote them."""
    names = [each.get("name") for each in resolved.pod.get("containers") or ()]
    return names[number : number + 1] == [CONTAINER] and index < len(resolved.argument_sources)
