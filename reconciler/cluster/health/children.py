"""Which Deployments, ReplicaSets, pods and events belong to which InferenceService. Pure.

By the chain of controllers in ownerReferences; labels are copied, and count only for pods whose ReplicaSet is gone.
Each list is walked once, so that a thousand services cost what their objects cost.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from reconciler.cluster.health.fields import OddField, flag, mappings, text
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
class Snapshot:
    """Objects of a cluster, read at about the same time."""

    services: Collection[KubeObject] = ()
    deployments: Collection[KubeObject] = ()
    replica_sets: Collection[KubeObject] = ()
    pods: Collection[KubeObject] = ()
    events: Collection[KubeObject] = ()


LABEL = "serving.kserve.io/inferenceservice"
_Named = tuple[str, str, str]  # kind, namespace, name


def children_of(snapshot: Snapshot) -> Mapping[ServiceId, Children]:
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
        try:
            service = owners.get(text(controller_of(body), "uid"))
            uid, name = text(body, "metadata", "uid"), text(body, "metadata", "name")
        except OddField:
            continue
        if service is not None:
            found[service].append(body)
            names[(kind, service.namespace, name)] = service
            if uid:
                owners[uid] = service
    return found


def _orphans(snapshot: Snapshot, names: Mapping[_Named, ServiceId]) -> list[tuple[ServiceId, KubeObject]]:
    """Pods that outlive their ReplicaSet, as while a service stops, with the service that their label names."""
    alive = {each["metadata"].get("uid") for each in snapshot.replica_sets if isinstance(each.get("metadata"), dict)}
    found = []
    for pod in snapshot.pods:
        try:
            owner, namespace = controller_of(pod), text(pod, "metadata", "namespace")
            if text(owner, "kind") != "ReplicaSet" or text(owner, "uid") in alive:
                continue
            service = names.get(("InferenceService", namespace, text(pod, "metadata", "labels", LABEL)))
        except OddField:
            continue
        if service is not None:
            found.append((service, pod))
    return found


def _about(
    events: Iterable[KubeObject], owners: Mapping[str, ServiceId], names: Mapping[_Named, ServiceId]
) -> dict[ServiceId, list[KubeObject]]:
    found: dict[ServiceId, list[KubeObject]] = defaultdict(list)
    for event in events:
        try:
            about = subject_of(event)
            uid = text(about, "uid")
            named = (text(about, "kind"), text(about, "namespace"), text(about, "name"))
        except OddField:
            continue
        service = owners.get(uid) if uid else names.get(named)
        if service is not None:
            found[service].append(event)
    return found


def subject_of(event: KubeObject) -> KubeObject:
    """What an event is about: `involvedObject` of v1, `regarding` of events.k8s.io. Raises OddField."""
    for key in ("involvedObject", "regarding"):
        found = event.get(key)
        if found is not None:
            if not isinstance(found, Mapping):
                raise OddField(key)
            return found
    return {}
