"""Which Deployments, ReplicaSets, pods and events belong to which InferenceService. Pure.

By the chain of controllers in ownerReferences; labels are copied, and count only for pods whose ReplicaSet or its
Deployment is gone.
Each list is walked once, so that a thousand services cost what their objects cost.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from reconciler.cluster.health.fields import OddField, flag, mappings, text
from reconciler.kserve.names import SERVICE_LABEL
from reconciler.model import ServiceId
from reconciler.model.objects import KubeObject


@dataclass(frozen=True, slots=True)
class Children:
    """What runs for one service, and what was said about it and them, in no order."""

    deployments: tuple[KubeObject, ...] = ()
    replica_sets: tuple[KubeObject, ...] = ()
    pods: tuple[KubeObject, ...] = ()
    events: tuple[KubeObject, ...] = ()


@dataclass(frozen=True, slots=True)
class WorkloadObjects:
    """Objects of a cluster, read at about the same time."""

    services: Collection[KubeObject] = ()
    deployments: Collection[KubeObject] = ()
    replica_sets: Collection[KubeObject] = ()
    pods: Collection[KubeObject] = ()
    events: Collection[KubeObject] = ()


_Named = tuple[str, str, str]  # kind, namespace, name


def children_of(snapshot: WorkloadObjects) -> Mapping[ServiceId, Children]:
    """The children of every service of the snapshot. What has odd metadata belongs to none."""
    owners: dict[str, ServiceId] = {}
    names: dict[_Named, ServiceId] = {}
    _learn(snapshot.services, "InferenceService", owners, names)
    deployments = _owned(snapshot.deployments, "Deployment", owners, names)
    replica_sets = _owned(snapshot.replica_sets, "ReplicaSet", owners, names)
    pods = _owned(snapshot.pods, "Pod", owners, names)
    for service, pod in _orphans(snapshot, names):
        pods[service].append(pod)
    events = _about(snapshot.events, owners, names)
    found = (deployments, replica_sets, pods, events)
    return {
        service: Children(*(tuple(each.get(service, ())) for each in found))
        for (kind, *_), service in names.items()
        if kind == "InferenceService"
    }


def controller_of(body: KubeObject) -> KubeObject:
    """The ownerReference of the controller that made it, or an empty one. Raises OddField."""
    for owner in mappings(body, "metadata", "ownerReferences"):
        if flag(owner, "controller"):
            return owner
    return {}


def _learn(
    bodies: Iterable[KubeObject], kind: str, owners: dict[str, ServiceId], names: dict[_Named, ServiceId]
) -> None:
    for body in bodies:
        try:
            service = ServiceId(text(body, "metadata", "namespace"), text(body, "metadata", "name"))
            uid = text(body, "metadata", "uid")
        except OddField:
            continue
        if uid:
            owners[uid] = names[(kind, service.namespace, service.name)] = service


def _owned(
    bodies: Iterable[KubeObject], kind: str, owners: dict[str, ServiceId], names: dict[_Named, ServiceId]
) -> dict[ServiceId, list[KubeObject]]:
    """Those whose controller is known already; they become known themselves."""
    found: dict[ServiceId, list[KubeObject]] = defaultdict(list)
    for body in bodies:
        service = owners.get(_controller_uid(body))
        metadata = body["metadata"] if service is not None else {}
        # No controller makes anything in another namespace: whoever writes that there means to deceive.
        if service is None or metadata.get("namespace") != service.namespace:
            continue
        found[service].append(body)
        uid, name = metadata.get("uid"), metadata.get("name")
        if isinstance(uid, str) and isinstance(name, str):
            owners[uid] = names[(kind, service.namespace, name)] = service
    return found


def _controller_uid(body: KubeObject) -> str:
    """As `controller_of`, and several times as fast: it is asked of every object of the cluster."""
    try:
        for owner in body["metadata"]["ownerReferences"]:
            if owner["controller"] is True:
                uid = owner["uid"]
                return uid if isinstance(uid, str) else ""
    except (KeyError, TypeError, AttributeError):
        pass
    return ""


def _orphans(snapshot: WorkloadObjects, names: Mapping[_Named, ServiceId]) -> list[tuple[ServiceId, KubeObject]]:
    """Pods that outlive their Deployment, as while a service stops, with the service that their label names.

    Its ReplicaSet is deleted a moment after it: in between, the chain is broken above the pod's owner.
    """
    deployments = set(_uids(snapshot.deployments))
    tops = ((each, _controller_uid(each)) for each in snapshot.replica_sets)
    alive = set(_uids(each for each, top in tops if not top or top in deployments))
    found = []
    for pod in snapshot.pods:
        uid = _controller_uid(pod)
        if not uid or uid in alive:
            continue
        try:
            namespace, label = text(pod, "metadata", "namespace"), text(pod, "metadata", "labels", SERVICE_LABEL)
            if text(controller_of(pod), "kind") != "ReplicaSet":
                continue
        except OddField:
            continue
        service = names.get(("InferenceService", namespace, label))
        if service is not None:
            found.append((service, pod))
    return found


def _uids(bodies: Iterable[KubeObject]) -> Iterator[str]:
    for body in bodies:
        try:
            yield text(body, "metadata", "uid")
        except OddField:
            continue


def _about(
    events: Iterable[KubeObject], owners: Mapping[str, ServiceId], names: Mapping[_Named, ServiceId]
) -> dict[ServiceId, list[KubeObject]]:
    found: dict[ServiceId, list[KubeObject]] = defaultdict(list)
    for event in events:
        try:
            about = subject_of(event)
            uid = text(about, "uid")
            service = owners.get(uid) if uid else names.get(_named(about))
            namespace = text(about, "namespace")
        except OddField:
            continue
        # Of a uid in another namespace anybody may tell.
        if service is not None and namespace == service.namespace:
            found[service].append(event)
    return found


def _named(about: KubeObject) -> _Named:
    return text(about, "kind"), text(about, "namespace"), text(about, "name")


def subject_of(event: KubeObject) -> KubeObject:
    """What an event is about: `involvedObject` of v1, `regarding` of events.k8s.io. Raises OddField."""
    for key in ("involvedObject", "regarding"):
        found = event.get(key)
        if found is not None:
            if not isinstance(found, dict):
                raise OddField(key)
            return found
    return {}
