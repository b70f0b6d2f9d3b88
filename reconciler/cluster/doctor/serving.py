"""KServe and the nodes: what serves what git asks for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final

from reconciler.cluster.api.client import Client
from reconciler.cluster.api.errors import Denied
from reconciler.cluster.doctor.ours import TRIAL
from reconciler.cluster.observed import SERVICE
from reconciler.cluster.rollout.gpus import UNIT, is_accelerator, shown
from reconciler.config.settings import ClusterSettings
from reconciler.kserve.quantity import amount
from reconciler.model import KubeObject
from reconciler.report.findings import CheckResult, ok, problem, warning

KINDS: Final = {
    ("InferenceService", "v1beta1"): "inferenceservices",
    ("ServingRuntime", "v1alpha1"): "servingruntimes",
    ("ClusterServingRuntime", "v1alpha1"): "clusterservingruntimes",
}
"""Of KServe, with the versions that we apply: their names in paths and RBAC."""
_CONTROLLER: Final = "control-plane=kserve-controller-manager"


def check_kserve(client: Client) -> Iterator[CheckResult]:
    absent = [f"{kind} {version}" for kind, version in KINDS if client.resource(SERVICE[0], kind, version) is None]
    if absent:
        yield problem("kserve", f"not served: {', '.join(absent)} of {SERVICE[0]}", "install KServe with its CRDs")
        return
    yield ok("kserve", f"{', '.join(f'{kind} {version}' for kind, version in KINDS)} are served")
    controllers = _controllers(client)
    yield from map(_judged_controller, controllers)
    if not controllers:
        message = f"no Deployment has the label {_CONTROLLER}: KServe's controller is not found"
        yield warning("kserve", message, "see whether it runs: without it no InferenceService gets pods")


def _controllers(client: Client) -> tuple[KubeObject, ...]:
    resource = client.resource("apps", "Deployment")
    return client.list(resource, labels=_CONTROLLER).items if resource else ()


def _judged_controller(deployment: KubeObject) -> CheckResult:
    metadata, spec = deployment["metadata"], deployment["spec"]["template"]["spec"]
    name = f"{metadata['namespace']}/{metadata['name']}"
    images = ", ".join(str(each.get("image")) for each in spec["containers"])
    conditions = (deployment.get("status") or {}).get("conditions") or ()
    if any(each.get("type") == "Available" and each.get("status") == "True" for each in conditions):
        return ok("kserve", f"its controller {name} is available ({images})")
    fix = f"kubectl -n {metadata['namespace']} describe deployment/{metadata['name']}"
    return problem("kserve", f"its controller {name} is not available ({images})", fix)


def check_webhooks(client: Client, settings: ClusterSettings) -> Iterator[CheckResult]:
    """What becomes of a service that is well, and of one whose name KServe refuses."""
    if client.resource(*SERVICE, "v1beta1") is None:
        return
    place = settings.default_namespace
    try:
        client.apply(_service(TRIAL, place), dry_run=True)
    except Denied as error:
        fix = "see whether it lets pass what git has"
        yield warning("webhooks", f"{error.by} refuses a small InferenceService in {place}: {error.verdict}", fix)
        return
    try:
        client.apply(_service(f"0-{TRIAL}", place), dry_run=True)
    except Denied:
        yield ok("webhooks", f"an InferenceService in {place} is admitted, and one that is wrong is refused")
        return
    fix = "see whether KServe's webhook configurations (*.kserve-webhook-server.*) are there"
    yield warning("webhooks", "no webhook refuses an InferenceService whose name KServe cannot use", fix)


def _service(name: str, namespace: str) -> KubeObject:
    container = {"name": "kserve-container", "image": f"example.com/{TRIAL}"}
    return {
        "apiVersion": f"{SERVICE[0]}/v1beta1",
        "kind": SERVICE[1],
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"predictor": {"containers": [container]}},
    }


def check_gpus(client: Client) -> Iterator[CheckResult]:
    resource = client.resource("", "Node")
    nodes = client.list(resource).items if resource else ()
    devices: Counter[str] = Counter()
    having = 0
    for node in nodes:
        found = _devices((node.get("status") or {}).get("allocatable") or {})
        having += bool(found)
        devices.update(found)
    if devices:
        yield ok("gpus", f"{having} of {len(nodes)} nodes have {shown(devices)}")
        return
    fix = "see whether the device plugin of the GPUs runs; where nodes are made on demand, nothing is to be done"
    yield warning("gpus", f"no node has GPUs (nodes: {len(nodes)}), so what asks for them stays pending", fix)


def _devices(allocatable: Mapping[str, Any]) -> dict[str, int]:
    """In thousandths."""
    counts = {kind: int(amount(str(value)) * UNIT) for kind, value in allocatable.items() if is_accelerator(kind)}
    return {kind: count for kind, count in counts.items() if count}
