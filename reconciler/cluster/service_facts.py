"""What people are shown of one service on a cluster: its pods, its GPUs and its KServe status. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from reconciler.cluster.health.children import Children
from reconciler.cluster.health.fields import NO_CONDITION, OddField, conditions, count, mappings, text, time
from reconciler.cluster.health.look import ServingHealth
from reconciler.cluster.health.workload import newest_pods
from reconciler.cluster.observed import SERVICE
from reconciler.cluster.rollout.gpus import UNIT, Amounts, allocatable, is_holding, node_of, requests_of
from reconciler.cluster.rollout.last_good import ServiceRecord
from reconciler.kserve.names import KSERVE_CONTAINER
from reconciler.model import GPU, KubeObject, NodeGpus, ObjectId, PodFacts, ProvenVersion, ServiceFacts, ServiceId


def facts_of(
    health: ServingHealth,
    children: Children,
    record: ServiceRecord | None,
    seen: Mapping[ObjectId, KubeObject],
    service: ServiceId,
    token_fault: str | None,
) -> ServiceFacts:
    body: Mapping[str, Any] = seen.get(ObjectId(*SERVICE, service.namespace, service.name)) or {}
    good = record.last_good if record else None
    newest = newest_pods(children) if health.is_acted_on else frozenset()
    return ServiceFacts(
        url=health.url,
        ready=health.ready,
        desired=health.desired,
        gpus=held_gpus(children.pods),
        live_digest=good.digest if good and health.serving else "",
        live_revision=good.revision if good and health.serving else "",
        origin=good.origin if good else ServiceFacts().origin,
        pods=tuple(_pod(pod, newest) for pod in sorted(children.pods, key=lambda pod: str(pod["metadata"]["name"]))),
        status=body.get("status") or {},
        promoted=ProvenVersion(good.digest, good.revision, good.at) if good else None,
        phase=health.phase or "",
        token_fault=token_fault,
    )


def _pod(pod: KubeObject, newest: frozenset[str]) -> PodFacts:
    status: Mapping[str, Any] = pod.get("status") or {}
    is_true = {each.get("type"): each.get("status") for each in status.get("conditions") or ()}
    times = _times(pod)
    return PodFacts(
        name=pod["metadata"]["name"],
        phase=str(status.get("phase") or "Pending"),
        node=str(pod["spec"].get("nodeName") or ""),
        ready=is_true.get("Ready") == "True",
        gpus=_gpus(requests_of(pod["spec"])),
        message=str(status.get("message") or ""),
        newest=pod["metadata"].get("uid") in newest,
        since=times.draining_at or times.ready_at or times.started_at or times.created_at,
        created_at=times.created_at,
        started_at=times.started_at,
        ready_at=times.ready_at,
        draining_at=times.draining_at,
        restarts=times.restarts,
    )


@dataclass(frozen=True, slots=True)
class _Times:
    created_at: float | None = None
    started_at: float | None = None
    ready_at: float | None = None
    draining_at: float | None = None
    restarts: int = 0


def _times(pod: KubeObject) -> _Times:
    """When a pod came how far. What no controller writes there says nothing."""
    try:
        ready = conditions(pod).get("Ready", NO_CONDITION)
        servers = mappings(pod, "status", "containerStatuses")
        server = next((each for each in servers if text(each, "name") == KSERVE_CONTAINER), None) or (*servers, {})[0]
        ends = time(pod, "metadata", "deletionTimestamp")
        grace = count(pod, "metadata", "deletionGracePeriodSeconds") or 0
        return _Times(
            created_at=time(pod, "metadata", "creationTimestamp"),
            started_at=time(server, "state", "running", "startedAt"),
            ready_at=ready.at if ready.is_true else None,
            draining_at=None if ends is None else ends - grace,
            restarts=sum(count(each, "restartCount") or 0 for each in servers),
        )
    except OddField:
        return _Times()


def held_gpus(pods: Iterable[KubeObject]) -> int:
    return held_by_node(pods).total()


def held_by_node(pods: Iterable[KubeObject]) -> Counter[str]:
    """How many GPUs pods hold, by the node that they are on or about to get."""
    held: Counter[str] = Counter()
    for pod in pods:
        if is_holding(pod) and (gpus := _gpus(requests_of(pod["spec"]))):
            held[node_of(pod)] += gpus
    return held


def gpus_of_nodes(nodes: Iterable[KubeObject], held: Mapping[str, int]) -> dict[str, NodeGpus]:
    """Of nodes that offer any, by name."""
    offered = {str(node["metadata"]["name"]): _gpus(allocatable(node)) for node in nodes}
    return {name: NodeGpus(total, held.get(name, 0)) for name, total in sorted(offered.items()) if total}


def _gpus(amounts: Amounts) -> int:
    return amounts.get(GPU, 0) // UNIT
