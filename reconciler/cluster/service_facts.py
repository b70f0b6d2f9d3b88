"""What people are shown of one service on a cluster: its pods, its GPUs and its KServe status. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from reconciler.cluster.health.children import Children
from reconciler.cluster.health.look import ServingHealth
from reconciler.cluster.observed import SERVICE
from reconciler.cluster.rollout.gpus import allocatable, is_holding, requests_of
from reconciler.cluster.rollout.last_good import ServiceRecord
from reconciler.model import GPU, KubeObject, ObjectId, PodFacts, ServiceFacts, ServiceId


def facts_of(
    health: ServingHealth,
    children: Children,
    record: ServiceRecord | None,
    seen: Mapping[ObjectId, KubeObject],
    service: ServiceId,
) -> ServiceFacts:
    body: Mapping[str, Any] = seen.get(ObjectId(*SERVICE, service.namespace, service.name)) or {}
    good = record.last_good if record else None
    return ServiceFacts(
        url=health.url,
        ready=health.ready,
        desired=health.desired,
        gpus=held_gpus(children.pods),
        live_digest=good.digest if good and health.serving else "",
        live_revision=good.revision if good and health.serving else "",
        origin=good.origin if good else ServiceFacts().origin,
        pods=tuple(_pod(pod) for pod in sorted(children.pods, key=lambda pod: str(pod["metadata"]["name"]))),
        status=body.get("status") or {},
    )


def _pod(pod: KubeObject) -> PodFacts:
    status: Mapping[str, Any] = pod.get("status") or {}
    conditions = {each.get("type"): each.get("status") for each in status.get("conditions") or ()}
    return PodFacts(
        name=pod["metadata"]["name"],
        phase=str(status.get("phase") or "Pending"),
        node=str(pod["spec"].get("nodeName") or ""),
        ready=conditions.get("Ready") == "True",
        gpus=requests_of(pod["spec"]).get(GPU, 0) // 1000,
        message=str(status.get("message") or ""),
    )


def held_gpus(pods: Iterable[KubeObject]) -> int:
    return sum(requests_of(pod["spec"]).get(GPU, 0) // 1000 for pod in pods if is_holding(pod))


def total_gpus(nodes: Iterable[KubeObject]) -> int:
    return sum(allocatable(node).get(GPU, 0) // 1000 for node in nodes)
