"""A cluster as it was observed, made of plain objects: for plans without a control plane."""

from __future__ import annotations

from typing import Any

from reconciler.cluster.objects.inventory import ClusterInventory, Member
from reconciler.cluster.observed import ClusterObserved
from reconciler.cluster.plan import ClusterPolicy, make_plan
from reconciler.desired.on_cluster import hash_of
from reconciler.model import DesiredObject, DesiredState, Holds, KubeObject, ObjectId, Origin, Plan


def git_object(kind: str, name: str, namespace: str = "models", group: str = "", **body: Any) -> DesiredObject:
    """One as git has it."""
    found = kube_object(kind, name, namespace, group, **body)
    del found["metadata"]["uid"], found["metadata"]["resourceVersion"]
    return DesiredObject(ObjectId.of(found), Origin(f"{name}.yaml", 1), found, hash_of(found))


def kube_object(kind: str, name: str, namespace: str = "models", group: str = "", **body: Any) -> dict[str, Any]:
    """One as the API server has it; nothing says who made it. `metadata` is what it has beside its name."""
    metadata = {"name": name, "namespace": namespace, "uid": f"uid-{name}", "resourceVersion": "1"}
    metadata |= body.pop("metadata", {})
    api_version = f"{group}/v1" if group else "v1"
    return {"apiVersion": api_version, "kind": kind, "metadata": {k: v for k, v in metadata.items() if v}, **body}


def plan_of(
    *wanted: DesiredObject,
    live: tuple[KubeObject, ...] = (),
    members: dict[ObjectId, Member] | None = None,
    policy: ClusterPolicy | None = None,
) -> Plan:
    """What is planned for these objects of git, and these live ones."""
    inventory = ClusterInventory("reconciler-main", "reconciler", "main", members or {})
    seen = ClusterObserved(
        target="main",
        at=1000.0,
        version="1.36",
        wanted=wanted,
        live={ObjectId.of(each): each for each in live},
        inventory=inventory,
    )
    desired = DesiredState("main", "abc", (), objects=wanted)
    return make_plan(desired, seen, Holds(), policy or ClusterPolicy())
