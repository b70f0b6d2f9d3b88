"""Status sequences that a real KServe 0.20 wrote, played again as the objects that a watch would show.

A frame holds what changed at `t` seconds: `service` (a merge patch), `status`, `deployment`, `pod`, `event`. `health`
is what a person would say then, and holds until a later frame says otherwise. Conditions are written
`STATUS REASON: MESSAGE`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from reconciler.cluster.health.children import Children, WorkloadObjects, children_of
from reconciler.kserve.names import SERVICE_LABEL
from reconciler.model import ServiceId

FOLDER = Path(__file__).parent / "sequences"
START = 1_800_000_000.0
INGRESS = "Predictor ingress not created"
NO_GPU = (
    "0/4 nodes are available: 4 Insufficient nvidia.com/gpu. preemption: 0/4 nodes are available: "
    "4 Preemption is not helpful for scheduling."
)


def stamp(seconds: float) -> str:
    """A time as the API server writes it: in whole seconds."""
    return datetime.fromtimestamp(int(START + seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def condition(kind: str, written: str, at: float) -> dict[str, Any]:
    """`STATUS REASON: MESSAGE` as an entry of `status.conditions`."""
    head, _, message = written.partition(": ")
    status, _, reason = head.partition(" ")
    found = {"type": kind, "status": status, "lastTransitionTime": stamp(at), "lastUpdateTime": stamp(at)}
    if reason:
        found["reason"] = reason.replace("_", " ")
    return {**found, "message": message} if message else found


def pod_status(state: str, at: float) -> dict[str, Any]:
    """What the kubelet or the scheduler writes of a pod in one of the recordings' states."""
    placed = {"conditions": [condition("PodScheduled", "True", at)]}
    waits = {"name": "kserve-container", "ready": False, "state": {"waiting": {"reason": "PodInitializing"}}}
    match state:
        case "pending":
            return {"phase": "Pending"}
        case "unschedulable":
            return {"phase": "Pending", "conditions": [condition("PodScheduled", f"False Unschedulable: {NO_GPU}", at)]}
        case "fetching":
            init = {"name": "storage-initializer", "state": {"running": {"startedAt": stamp(at)}}, "restartCount": 0}
            return {"phase": "Pending", **placed, "initContainerStatuses": [init], "containerStatuses": [waits]}
        case "fetch-failing":
            init = backing_off("storage-initializer", "RepositoryNotFoundError: 401 Client Error", at)
            return {"phase": "Pending", **placed, "initContainerStatuses": [init], "containerStatuses": [waits]}
        case "crashing":
            main = backing_off("kserve-container", "CUDA out of memory", at)
            return {"phase": "Running", **placed, "containerStatuses": [main]}
    assert state in ("ready", "leaving"), state
    main = {"name": "kserve-container", "ready": True, "state": {"running": {"startedAt": stamp(at)}}}
    return {
        "phase": "Running",
        "conditions": [*placed["conditions"], condition("Ready", "True", at)],
        "containerStatuses": [main],
    }


def backing_off(name: str, message: str, at: float) -> dict[str, Any]:
    """A container that crashed three times and waits to be started again."""
    ended = {"exitCode": 1, "reason": "Error", "message": message, "startedAt": stamp(at), "finishedAt": stamp(at)}
    waiting = {"reason": "CrashLoopBackOff", "message": "back-off 40s restarting failed container"}
    last = {"lastState": {"terminated": ended}, "restartCount": 3}
    return {"name": name, "ready": False, "state": {"waiting": waiting}, **last}


@dataclass
class Cluster:
    """The objects of one sequence at one time."""

    service: dict[str, Any] = field(default_factory=dict)
    deployment: dict[str, Any] | None = None
    replica_sets: dict[int, dict[str, Any]] = field(default_factory=dict)
    pods: dict[str, dict[str, Any]] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    revision: int = 0

    def apply(self, at: float, frame: Mapping[str, Any]) -> None:
        """What one frame says has changed."""
        for key, change in frame.items():
            if key in ("service", "status", "deployment", "pod", "event"):
                getattr(self, f"_{key}")(at, change)

    def children(self) -> Children:
        """What runs for the service, as copies."""
        made = [self.deployment] if self.deployment else []
        objects = ([self.service], made, self.replica_sets.values(), self.pods.values(), self.events)
        return children_of(WorkloadObjects(*(deepcopy(list(each)) for each in objects)))[ServiceId("models", "m")]

    def _service(self, at: float, change: Mapping[str, Any]) -> None:
        if not self.service:
            metadata = {"namespace": "models", "name": "m", "uid": "isvc", "creationTimestamp": stamp(at)}
            kind = {"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService"}
            self.service = {**kind, "metadata": {**metadata, "managedFields": []}}
        self.service = merge(self.service, change["patch"])
        self.service["metadata"]["generation"] = change["generation"]
        self._wrote(at, "spec" if "spec" in change["patch"] else "metadata", "")

    def _wrote(self, at: float, part: str, subresource: str) -> None:
        others = [each for each in self.service["metadata"]["managedFields"] if f"f:{part}" not in each["fieldsV1"]]
        entry = {"manager": part, "time": stamp(at), "fieldsV1": {f"f:{part}": {}}}
        self.service["metadata"]["managedFields"] = [
            *others,
            entry | ({"subresource": subresource} if subresource else {}),
        ]

    def _status(self, at: float, change: Mapping[str, Any]) -> None:
        if not change:
            return
        known = {
            key: value for key, value in change.items() if key not in ("conditions", "transition", "target", "failure")
        }
        model = {"transitionStatus": change.get("transition", ""), "lastFailureInfo": change.get("failure")}
        before = {each["type"]: each for each in self.service.get("status", {}).get("conditions", [])}
        self.service["status"] = {
            "deploymentMode": "Standard",
            "conditions": [_kept(before, condition(kind, said, at)) for kind, said in change["conditions"].items()],
            "modelStatus": {**model, "states": {"targetModelState": change.get("target", "")}},
            **known,
        }
        self._wrote(at, "status", "status")

    def _deployment(self, at: float, change: Mapping[str, Any] | None) -> None:
        if change is None:
            self.deployment, self.replica_sets = None, {}
            return
        if change.get("generation") == 1:
            self.deployment = _new_deployment(at)
            self.replica_sets = {}
        made = self.deployment
        assert made
        if "generation" in change:
            made["metadata"]["generation"] = change["generation"]
            made["metadata"]["managedFields"] = [{"manager": "manager", "time": stamp(at), "fieldsV1": {"f:spec": {}}}]
            made["spec"] = _spec(change)
            made["recorded"] = change["template"]
        if "counts" in change:
            total, updated, ready, missing = change["counts"]
            named = {"replicas": total, "updatedReplicas": updated, "readyReplicas": ready, "availableReplicas": ready}
            made["status"].update(named | {"unavailableReplicas": missing})
        if "conditions" in change:
            made["status"]["conditions"] = [condition(kind, said, at) for kind, said in change["conditions"].items()]
        if change.get("observed"):
            made["status"]["observedGeneration"] = change["observed"]
            self._number(at, made["recorded"])

    def _number(self, at: float, template: int) -> None:
        """The Deployment's controller makes a ReplicaSet for a new template, and gives a returning one a new number."""
        newest = max(self.replica_sets.values(), key=_revision, default=None)
        if newest is None or self.replica_sets.get(template) is not newest:
            self.revision += 1
            owner = [{"kind": "Deployment", "name": "m-predictor", "uid": "deployment", "controller": True}]
            self.replica_sets[template] = {
                "metadata": {
                    "namespace": "models",
                    "name": f"m-predictor-{template}",
                    "uid": f"set-{template}",
                    "creationTimestamp": stamp(at),
                    "ownerReferences": owner,
                    "annotations": {"deployment.kubernetes.io/revision": str(self.revision)},
                }
            }

    def _pod(self, at: float, change: Mapping[str, Any]) -> None:
        name, state = change["name"], change["state"]
        if state == "gone":
            del self.pods[name]
            return
        template = change["template"]
        owner = {"kind": "ReplicaSet", "name": f"m-predictor-{template}", "uid": f"set-{template}", "controller": True}
        metadata = {"namespace": "models", "name": name, "creationTimestamp": stamp(at), "ownerReferences": [owner]}
        metadata["labels"] = {SERVICE_LABEL: "m"}
        if state == "leaving":
            self.pods[name]["metadata"]["deletionTimestamp"] = stamp(at)
            return
        before = self.pods.get(name)
        metadata = before["metadata"] if before else metadata
        self.pods[name] = {"metadata": metadata, "spec": {}, "status": pod_status(state, at)}

    def _event(self, at: float, change: Mapping[str, Any]) -> None:
        about = {"kind": "InferenceService", "namespace": "models", "name": "m", "uid": "isvc"}
        self.events.append({"involvedObject": about, "lastTimestamp": stamp(at), **change})


def _kept(before: Mapping[str, Mapping[str, Any]], now: dict[str, Any]) -> dict[str, Any]:
    """A condition whose status stays keeps the time of its last transition."""
    old = before.get(now["type"])
    is_same = old is not None and old["status"] == now["status"]
    return {**now, "lastTransitionTime": old["lastTransitionTime"]} if old and is_same else now


def _new_deployment(at: float) -> dict[str, Any]:
    owner = {"kind": "InferenceService", "name": "m", "uid": "isvc", "controller": True}
    metadata: dict[str, Any] = {"namespace": "models", "name": "m-predictor", "uid": "deployment"}
    metadata["labels"] = {"serving.kserve.io/inferenceservice": "m", "component": "predictor"}
    metadata |= {"creationTimestamp": stamp(at), "ownerReferences": [owner]}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "status": {}}


def _spec(change: Mapping[str, Any]) -> dict[str, Any]:
    container = {"name": "kserve-container", **{key: change[key] for key in ("args", "image", "resources")}}
    return {"replicas": change["replicas"], "template": {"metadata": {}, "spec": {"containers": [container]}}}


def _revision(replica_set: Mapping[str, Any]) -> int:
    return int(replica_set["metadata"]["annotations"]["deployment.kubernetes.io/revision"])


def merge(base: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, Mapping):
        return deepcopy(patch)
    found = dict(base) if isinstance(base, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            found.pop(key, None)
        else:
            found[key] = merge(found.get(key), value)
    return found


@dataclass(frozen=True)
class Sequence:
    """A recording, and what a person says at its end: `end` at once, and `later` when every deadline is over."""

    name: str
    title: str
    frames: list[dict[str, Any]]
    end: dict[str, Any]
    later: dict[str, Any]

    def play(self) -> Iterator[tuple[float, Cluster, dict[str, Any]]]:
        """The cluster after each frame; it is one object that changes."""
        cluster = Cluster()
        for frame in self.frames:
            cluster.apply(frame["t"], frame)
            yield START + frame["t"], cluster, frame

    def settled(self) -> list[dict[str, Any]]:
        """The health after each thing that was done, just before the next one."""
        found: list[dict[str, Any]] = []
        health = ""
        for frame in self.frames:
            found += [{}] if "service" in frame or "done" in frame else []
            health = frame.get("health", health)
            found[-1] = {"health": health}
        return found


def read(path: Path) -> Sequence:
    """One file of the folder."""
    found = yaml.load(path.read_bytes(), Loader=yaml.CSafeLoader)
    return Sequence(path.stem, found["title"], found["frames"], found.get("end", {}), found.get("later", {}))


SEQUENCES = [read(path) for path in sorted(FOLDER.glob("*.yaml"))]
