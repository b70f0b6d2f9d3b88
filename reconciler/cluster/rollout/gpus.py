"""What is free on the nodes of a cluster, and where a pod would have room beside what runs. Pure.

It counts as the scheduler does: what a node has allocatable, less what the pods bound to it request; see
https://kubernetes.io/docs/concepts/scheduling-eviction/kube-scheduler/ and, for init containers and sidecars,
https://kubernetes.io/docs/concepts/workloads/pods/init-containers/#resource-sharing-within-containers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import lru_cache
from typing import Any

from reconciler.kserve.quantity import amount
from reconciler.kserve.scheduling import Malformed, Node, Taint, misfits
from reconciler.model import KubeObject
from reconciler.model.names import counted

Amounts = Mapping[str, int]
"""How much of each resource, in thousandths: `cpu` 500 is half a core, `nvidia.com/gpu` 1000 is one GPU."""

UNIT = 1000
_PODS = "pods"
_UNSCHEDULABLE = Taint("node.kubernetes.io/unschedulable", "NoSchedule")
_ENDED = ("Succeeded", "Failed")
_AUTOSCALERS = {"karpenter.sh/nodepool": "Karpenter", "karpenter.sh/provisioner-name": "Karpenter"}
_NOTHING: Amounts = {}
_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


class Room(StrEnum):
    """Where one more pod of a service has room."""

    BESIDE = "Beside"  # in addition to all that runs
    INSTEAD = "Instead"  # only in place of one of its own
    NONE = "None"
    UNKNOWN = "Unknown"  # what the cluster shows does not tell


@dataclass(frozen=True, slots=True)
class PodNeed:
    """What one pod requests, and the rules that say where it may run: its pod spec."""

    requests: Amounts
    spec: Mapping[str, Any] = field(default_factory=dict)

    @property
    def accelerators(self) -> Amounts:
        """What it requests of GPUs, parts of GPUs and other devices."""
        return {kind: count for kind, count in self.requests.items() if is_accelerator(kind) and count}


@dataclass(frozen=True, slots=True)
class NodeRoom:
    """One node. `closed` says why nothing new may start there whatever it tolerates; empty: it may."""

    node: Node
    free: Amounts
    closed: str = ""

    def holds(self, requests: Amounts) -> bool:
        """Is that much free there?"""
        return all(self.free.get(kind, 0) >= count for kind, count in requests.items() if count)

    def less(self, requests: Amounts) -> NodeRoom:
        """The node once that is taken from it; of a negative amount, once it is given back."""
        free = {kind: count - requests.get(kind, 0) for kind, count in self.free.items()}
        return replace(self, free=free)


@dataclass(frozen=True, slots=True)
class ClusterRoom:
    """All nodes by name. `autoscaler` says what may add more of them; empty: nothing is known to."""

    nodes: Mapping[str, NodeRoom]
    autoscaler: str = ""

    def place(self, pods: Sequence[PodNeed]) -> ClusterRoom | None:
        """What is free once each of these pods is on a node; None where not all of them have room. Raises Malformed."""
        left = dict(self.nodes)
        for pod in pods:
            found = min(_candidates(left.values(), pod), key=_tightest, default=None)
            if found is None:
                return None
            left[found.node.name] = found.less(pod.requests)
        return replace(self, nodes=left)

    def without(self, pods: Iterable[KubeObject]) -> ClusterRoom:
        """What is free once these pods are gone."""
        left = dict(self.nodes)
        for pod in filter(is_holding, pods):
            name = node_of(pod)
            if name in left:
                given_back = {kind: -count for kind, count in requests_of(pod["spec"]).items()}
                left[name] = left[name].less(given_back)
        return replace(self, nodes=left)


def read_room(nodes: Iterable[KubeObject], pods: Iterable[KubeObject], autoscaler: str = "") -> ClusterRoom:
    """What the nodes have free now. `pods` are all of the cluster; `autoscaler` is one that its nodes do not show.

    A pod that waits for a node holds nothing: were there room that suits it, it would have one.
    """
    taken: dict[str, Counter[str]] = {}
    for pod in pods:
        if is_holding(pod):
            taken.setdefault(node_of(pod), Counter()).update(requests_of(pod["spec"]))
    rooms, shown = {}, ""
    for node in nodes:
        name = node["metadata"]["name"]
        rooms[name] = _room_of(node, taken.get(name, _NOTHING))
        shown = shown or next((title for key, title in _AUTOSCALERS.items() if key in rooms[name].node.labels), "")
    return ClusterRoom(rooms, autoscaler or shown)


def room_for(room: ClusterRoom, pods: Sequence[PodNeed], old: Sequence[KubeObject] = ()) -> Room:
    """Where the pods of one more replica have room: one, or the head and the workers of a service on several nodes.

    `old` are the pods of one replica of the same service, which would make room.
    """
    if any("resourceClaims" in pod.spec for pod in pods):
        return Room.UNKNOWN
    try:
        if room.place(pods) is not None:
            return Room.UNKNOWN if any(map(_minds_others, pods)) else Room.BESIDE
        if room.autoscaler or not room.nodes:
            return Room.UNKNOWN
        return Room.INSTEAD if old and room.without(old).place(pods) is not None else Room.NONE
    except Malformed:
        return Room.UNKNOWN


def why_unknown(room: ClusterRoom, pods: Sequence[PodNeed]) -> str:
    """Why it cannot be told whether there is room."""
    if any("resourceClaims" in pod.spec for pod in pods):
        return "it asks for devices by resourceClaims, which are not counted"
    if not room.nodes:
        return "no node is known"
    if any(map(_minds_others, pods)):
        return "there are GPUs, but its rules about other pods (affinity, spread) are not looked at"
    if room.autoscaler:
        return f"no node has room now, and {room.autoscaler} may add one"
    return "its rules for nodes cannot be read"


def lack(room: ClusterRoom, pods: Sequence[PodNeed]) -> str:
    """Why these pods have no room beside what runs: `needs 8 nvidia.com/gpu on one node, and at most 2 is free on one
    of the 3 nodes it may run on`. Empty where they have."""
    left = room
    try:
        for pod in pods:
            after = left.place([pod])
            if after is None:
                return _lack_of(left, pod)
            left = after
    except Malformed as error:
        return error.issue.message
    return ""


def _minds_others(pod: PodNeed) -> bool:
    """Does it depend on where other pods are?"""
    affinity = pod.spec.get("affinity") or {}
    rules = [(affinity.get(kind) or {}).get(_REQUIRED) for kind in ("podAffinity", "podAntiAffinity")]
    spread = [each.get("whenUnsatisfiable") for each in pod.spec.get("topologySpreadConstraints") or ()]
    return any(rules) or "DoNotSchedule" in spread


def need_of(spec: Mapping[str, Any]) -> PodNeed:
    """What a pod with this spec would request."""
    return PodNeed(requests_of(spec), spec)


def is_accelerator(kind: str) -> bool:
    """Is it a device of its vendor's, such as `nvidia.com/gpu`, `nvidia.com/mig-1g.10gb` or `amd.com/gpu`?"""
    return "/" in kind and not kind.partition("/")[0].endswith("kubernetes.io")


def requests_of(spec: Mapping[str, Any]) -> Amounts:
    """What the scheduler counts for a pod: the larger of what runs at last and of each step of its start."""
    running: Counter[str] = Counter()
    starting: dict[str, int] = {}
    for init in spec.get("initContainers") or ():
        asked = _asked(init.get("resources"))
        if init.get("restartPolicy") == "Always":
            running.update(asked)
            asked = running
        else:
            asked = {kind: count + running[kind] for kind, count in asked.items()} | _beside(running, asked)
        for kind, count in asked.items():
            starting[kind] = max(starting.get(kind, 0), count)
    for container in spec.get("containers") or ():
        running.update(_asked(container.get("resources")))
    found = {kind: max(running[kind], starting.get(kind, 0)) for kind in {*running, *starting}}
    found |= _asked(spec.get("resources"))
    for kind, count in _amounts(spec.get("overhead")).items():
        found[kind] = found.get(kind, 0) + count
    return {**found, _PODS: UNIT}


def is_holding(pod: KubeObject) -> bool:
    """Is it bound to a node, or promised one by preemption, and has not ended? One that terminates still holds."""
    return bool(node_of(pod)) and (pod.get("status") or {}).get("phase") not in _ENDED


def node_of(pod: KubeObject) -> str:
    """The node that a pod is on, or is about to get; empty: none."""
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    return spec.get("nodeName") or status.get("nominatedNodeName") or ""


# ---------------------------------------------------------------- nodes


def allocatable(node: KubeObject) -> Amounts:
    """What a node has for pods."""
    return _amounts((node.get("status") or {}).get("allocatable"))


def _room_of(node: KubeObject, taken: Amounts) -> NodeRoom:
    metadata, spec, status = node["metadata"], node.get("spec") or {}, node.get("status") or {}
    taints = tuple(_taint(each) for each in spec.get("taints") or ())
    if spec.get("unschedulable") and _UNSCHEDULABLE not in taints:
        taints = (*taints, _UNSCHEDULABLE)
    free = {kind: count - taken.get(kind, 0) for kind, count in allocatable(node).items()}
    return NodeRoom(Node(metadata["name"], metadata.get("labels") or {}, taints), free, _closed(metadata, status))


def _taint(taint: Mapping[str, Any]) -> Taint:
    return Taint(taint.get("key") or "", taint.get("effect") or "", taint.get("value") or "")


def _closed(metadata: Mapping[str, Any], status: Mapping[str, Any]) -> str:
    if metadata.get("deletionTimestamp"):
        return "it is being deleted"
    ready = next((each for each in status.get("conditions") or () if each.get("type") == "Ready"), None)
    return "" if ready is not None and ready.get("status") == "True" else "it is not ready"


def _candidates(nodes: Iterable[NodeRoom], pod: PodNeed) -> Iterator[NodeRoom]:
    """Nodes with room for it. What is cheap to ask is asked first: there may be a thousand nodes."""
    return (each for each in nodes if not each.closed and each.holds(pod.requests) and _may_run(pod, each))


def _may_run(pod: PodNeed, room: NodeRoom) -> bool:
    return next(misfits(pod.spec, room.node), None) is None


def _tightest(room: NodeRoom) -> tuple[int, str]:
    """Large pods need whole nodes: the fewest free devices come first."""
    return sum(count for kind, count in room.free.items() if is_accelerator(kind)), room.node.name


# ---------------------------------------------------------------- amounts


def _asked(resources: Mapping[str, Any] | None) -> Amounts:
    """Its requests; of what it only limits, its limit."""
    if not resources:
        return _NOTHING
    return {**_amounts(resources.get("limits")), **_amounts(resources.get("requests"))}


def _beside(running: Amounts, asked: Amounts) -> dict[str, int]:
    return {kind: count for kind, count in running.items() if kind not in asked}


def _amounts(given: Mapping[str, Any] | None) -> dict[str, int]:
    return {kind: _thousandths(str(value)) for kind, value in (given or {}).items()}


@lru_cache(4096)
def _thousandths(text: str) -> int:
    """What is no quantity counts as nothing: an API server has none of these."""
    try:
        return int(amount(text) * UNIT)
    except ValueError:
        return 0


# ---------------------------------------------------------------- text


def shown(amounts: Amounts) -> str:
    """`8 nvidia.com/gpu`, `2 nvidia.com/mig-1g.10gb`."""
    return " and ".join(f"{_number(kind, count)} {kind}" for kind, count in sorted(amounts.items()))


def _number(kind: str, count: int) -> str:
    if kind == "memory":
        return f"{round(count / UNIT / (1 << 30), 1):g}Gi"
    return f"{count / UNIT:g}"


def _lack_of(room: ClusterRoom, pod: PodNeed) -> str:
    open_nodes = [each for each in room.nodes.values() if not each.closed]
    allowed = [each for each in open_nodes if _may_run(pod, each)]
    if not allowed:
        shut = _shut(room, open_nodes)
        return f"{_needs(pod.accelerators)}, and it may run on none of the {_nodes(room.nodes.values())}: {shut}"
    for kind in sorted(pod.requests, key=lambda kind: (kind not in pod.accelerators, kind)):
        most = max(max(0, each.free.get(kind, 0)) for each in allowed)
        if most < pod.requests[kind]:
            needs = _needs(pod.accelerators if kind in pod.accelerators else {kind: pod.requests[kind]})
            return f"{needs}, and at most {_number(kind, most)} is free on one of the {_nodes(allowed)} it may run on"
    return f"{_needs(pod.accelerators)}, and none of the {_nodes(allowed)} it may run on has room for all of it"


def _needs(amounts: Amounts) -> str:
    return f"needs {shown(amounts)} on one node" if amounts else "needs a node"


def _nodes(nodes: Iterable[NodeRoom]) -> str:
    return counted(len(list(nodes)), "node")


def _shut(room: ClusterRoom, open_nodes: Sequence[NodeRoom]) -> str:
    closed = len(room.nodes) - len(open_nodes)
    ruled_out = f"{len(open_nodes)} ruled out by its nodeSelector, node affinity or tolerations" if open_nodes else ""
    return ", ".join(filter(None, [f"{closed} not ready" if closed else "", ruled_out]))
