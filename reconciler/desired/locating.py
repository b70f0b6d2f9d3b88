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
            case ("containers", int(number), "args", int(index)) if args := _arguments(resolved, number, index):
                return origins.arguments(args)[index].origin or service.origin
        return origins.of_issue(issue, resolved.pod)

    return locate


def _arguments(resolved: Resolved, number: int, index: int) -> tuple[str, ...]:
    """All of the model's container, if it has one of that index: of these alone some are the runtime's."""
    containers = resolved.pod.get("containers") or ()
    if number >= len(containers) or containers[number].get("name") != CONTAINER:
        return ()
    args = tuple(map(str, containers[number].get("args") or ()))
    return args if index < len(args) else ()
