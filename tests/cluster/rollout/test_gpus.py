"""What is free on a cluster, and where one more pod has room."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.cluster.rollout.gpus import (
    UNIT,
    ClusterRoom,
    Room,
    lack,
    need_of,
    read_room,
    requests_of,
    room_for,
    why_unknown,
)
from reconciler.cluster.service_facts import gpus_of_nodes, held_by_node

GPU, MIG = "nvidia.com/gpu", "nvidia.com/mig-1g.10gb"
TAINT = {"key": GPU, "effect": "NoSchedule", "value": "present"}
READY = [{"type": "Ready", "status": "True"}]


def node(name: str, gpus: int = 8, **parts: Any) -> dict[str, Any]:
    allocatable = {"cpu": "64", "memory": "512Gi", "pods": "110", GPU: str(gpus)} | parts.pop("allocatable", {})
    labels = parts.pop("labels", {})
    conditions = parts.pop("conditions", READY)
    status = {"allocatable": allocatable, "conditions": conditions}
    return {"metadata": {"name": name, "labels": labels}, "spec": parts, "status": status}


def spec(requests: dict[str, Any], **parts: Any) -> dict[str, Any]:
    return {"containers": [{"name": "kserve-container", "resources": {"limits": requests}}], **parts}


def pod(on: str, gpus: int = 1, phase: str = "Running", **parts: Any) -> dict[str, Any]:
    return {"metadata": {}, "spec": spec({GPU: str(gpus)}, nodeName=on, **parts), "status": {"phase": phase}}


def free(room: ClusterRoom, name: str, kind: str = GPU) -> float:
    return room.nodes[name].free[kind] / UNIT


def find(nodes: list[Any], pods: list[Any], wanted: dict[str, Any], old: tuple[Any, ...] = (), **rules: Any) -> Room:
    return room_for(read_room(nodes, pods), [need_of(spec(wanted, **rules))], old)


# ---------------------------------------------------------------- properties

counts = st.integers(0, 9)


@given(st.lists(counts, max_size=6), st.lists(st.tuples(st.integers(0, 5), counts), max_size=20), st.lists(counts))
def test_placing_never_takes_more_than_is_free(sizes: list[int], held: list[tuple[int, int]], asked: list[int]) -> None:
    room = read_room([node(str(i), n) for i, n in enumerate(sizes)], [pod(str(i), n) for i, n in held])
    left = room.place([need_of(spec({GPU: str(n)})) for n in asked])
    if left is None:
        return
    taken = {name: free(room, name) - free(left, name) for name in room.nodes}
    assert sum(taken.values()) == sum(asked)
    assert all(taken[name] == 0 or free(left, name) >= 0 for name in room.nodes)


@given(st.lists(counts, max_size=6), st.lists(st.tuples(st.integers(0, 5), counts), min_size=1, max_size=9), counts)
def test_room_is_never_lost_when_a_pod_goes(sizes: list[int], held: list[tuple[int, int]], asked: int) -> None:
    nodes, pods = [node(str(i), n) for i, n in enumerate(sizes)], [pod(str(i), n) for i, n in held]
    before, after = find(nodes, pods, {GPU: asked}, (pods[0],)), find(nodes, pods[1:], {GPU: asked})
    assert (after is Room.BESIDE) == (before in (Room.BESIDE, Room.INSTEAD))


@given(st.lists(counts, max_size=6), st.lists(st.tuples(st.integers(0, 5), counts), max_size=9))
def test_people_are_shown_the_room_that_is_decided_with(sizes: list[int], held: list[tuple[int, int]]) -> None:
    nodes, pods = [node(str(i), n) for i, n in enumerate(sizes)], [pod(str(i), n) for i, n in held]
    shown, room = gpus_of_nodes(nodes, held_by_node(pods)), read_room(nodes, pods)
    assert {name: one.total for name, one in shown.items()} == {str(i): n for i, n in enumerate(sizes) if n}
    assert all(one.total - one.requested == free(room, name) for name, one in shown.items())


@given(st.lists(counts, max_size=6), st.lists(st.tuples(st.integers(0, 5), counts), max_size=9))
def test_what_goes_gives_back_just_what_it_held(sizes: list[int], held: list[tuple[int, int]]) -> None:
    nodes, pods = [node(str(i), n) for i, n in enumerate(sizes)], [pod(str(i), n) for i, n in held]
    emptied = read_room(nodes, pods).without(pods)
    assert {name: each.free for name, each in emptied.nodes.items()} == {
        name: each.free for name, each in read_room(nodes, []).nodes.items()
    }


amounts = st.dictionaries(st.sampled_from(["cpu", GPU]), st.integers(0, 5), max_size=2)
containers = st.lists(st.builds(lambda given: {"resources": {"requests": given}}, amounts), max_size=3)
inits = st.lists(
    st.builds(
        lambda given, always: {"resources": {"requests": given}, **({"restartPolicy": "Always"} if always else {})},
        amounts,
        st.booleans(),
    ),
    max_size=4,
)


@given(containers, inits, st.sampled_from(["cpu", GPU]))
def test_a_pod_requests_the_most_that_runs_of_it_at_once(main: list[Any], start: list[Any], kind: str) -> None:
    """Played through: each init container beside the sidecars before it, and at last all containers beside them."""
    sidecars, most = 0, 0
    for each in start:
        asked = each["resources"]["requests"].get(kind, 0)
        most = max(most, sidecars + asked)
        sidecars += asked if "restartPolicy" in each else 0
    most = max(most, sidecars + sum(each["resources"]["requests"].get(kind, 0) for each in main))
    assert requests_of({"containers": main, "initContainers": start}).get(kind, 0) == most * UNIT


# ---------------------------------------------------------------- examples


@pytest.mark.parametrize(
    ("rule", "nodes", "pods", "wanted", "expected"),
    [
        ("a free node holds it", [node("a")], [], {GPU: 8}, Room.BESIDE),
        ("all of its GPUs are on one node", [node("a", 4), node("b", 4)], [], {GPU: 8}, Room.NONE),
        ("what terminates still holds", [node("a")], [pod("a", 8, deletionTimestamp="x")], {GPU: 1}, Room.NONE),
        ("what has ended does not", [node("a")], [pod("a", 8, "Succeeded"), pod("a", 8, "Failed")], {GPU: 8}, "Beside"),
        ("what waits for a node does not", [node("a")], [pod("", 8, "Pending")], {GPU: 8}, Room.BESIDE),
        ("what is bound and pulls its image does", [node("a")], [pod("a", 8, "Pending")], {GPU: 1}, Room.NONE),
        ("a cordoned node is not open", [node("a", unschedulable=True)], [], {GPU: 1}, Room.NONE),
        ("a node that is not ready is not open", [node("a", conditions=[])], [], {GPU: 1}, Room.NONE),
        ("a taint keeps away what does not tolerate it", [node("a", taints=[TAINT])], [], {GPU: 1}, Room.NONE),
        ("another resource counts by its own name", [node("a", allocatable={MIG: 2})], [], {MIG: 2}, Room.BESIDE),
        ("a whole GPU is no part of one", [node("a", 8)], [], {MIG: 1}, Room.NONE),
        ("AMD's counts as well", [node("a", 0, allocatable={"amd.com/gpu": 1})], [], {"amd.com/gpu": 2}, Room.NONE),
        ("memory counts", [node("a")], [], {GPU: 1, "memory": "1Ti"}, Room.NONE),
        ("the number of pods counts", [node("a", allocatable={"pods": "1"})], [pod("a", 0)], {GPU: 1}, Room.NONE),
        ("no node is known", [], [], {GPU: 1}, Room.UNKNOWN),
        ("Karpenter may add one", [node("a", 0, labels={"karpenter.sh/nodepool": "x"})], [], {GPU: 1}, Room.UNKNOWN),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_room_is_what_the_scheduler_would_find(
    rule: str, nodes: list[Any], pods: list[Any], wanted: dict[str, Any], expected: Room
) -> None:
    assert find(nodes, pods, wanted) is Room(expected), rule


def test_its_own_old_pod_makes_room() -> None:
    old = pod("a", 8)
    assert find([node("a")], [old], {GPU: 8}, (old,)) is Room.INSTEAD
    assert find([node("a")], [old], {GPU: 9}, (old,)) is Room.NONE


def test_rules_for_nodes_are_those_of_the_pod() -> None:
    there = node("a", taints=[TAINT], labels={"gpu": "h100"})
    tolerant = [{"key": GPU, "operator": "Exists"}]
    assert find([there], [], {GPU: 1}, tolerations=tolerant, nodeSelector={"gpu": "h100"}) is Room.BESIDE
    assert find([there], [], {GPU: 1}, tolerations=tolerant, nodeSelector={"gpu": "a100"}) is Room.NONE


def test_several_nodes_hold_head_and_workers() -> None:
    room = read_room([node("a"), node("b")], [])
    head, worker = need_of(spec({GPU: 8})), need_of(spec({GPU: 8}))
    assert room_for(room, [head, worker]) is Room.BESIDE
    assert room_for(room, [head, worker, worker]) is Room.NONE
    assert lack(room, [head, worker, worker]).startswith("needs 8 nvidia.com/gpu on one node, and at most 0 ")


def test_a_pod_that_preempts_holds_the_node_it_was_promised() -> None:
    waiting = pod("", 8, "Pending")
    waiting["status"]["nominatedNodeName"] = "a"
    assert find([node("a")], [waiting], {GPU: 1}) is Room.NONE


def test_devices_by_claims_are_not_known() -> None:
    claimed = [need_of(spec({}, resourceClaims=[{"name": "gpu"}]))]
    room = read_room([node("a")], [])
    assert room_for(room, claimed) is Room.UNKNOWN
    assert why_unknown(room, claimed) == "it asks for devices by resourceClaims, which are not counted"


@pytest.mark.parametrize(
    "rules",
    [
        {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{}]}}},
        {"topologySpreadConstraints": [{"whenUnsatisfiable": "DoNotSchedule"}]},
    ],
)
def test_rules_about_other_pods_make_room_unknown(rules: dict[str, Any]) -> None:
    assert find([node("a")], [], {GPU: 1}, **rules) is Room.UNKNOWN
    assert find([node("a")], [], {GPU: 9}, **rules) is Room.NONE
    needs = [need_of(spec({GPU: 1}, **rules))]
    assert "rules about other pods" in why_unknown(read_room([node("a")], []), needs)


def test_what_lacks_is_said_with_its_numbers() -> None:
    room = read_room([node("a"), node("b"), node("c", conditions=[])], [pod("a", 6), pod("b", 8)])
    text = "needs 8 nvidia.com/gpu on one node, and at most 2 is free on one of the 2 nodes it may run on"
    assert lack(room, [need_of(spec({GPU: 8}))]) == text
    text = "needs 1024Gi memory on one node, and at most 512Gi is free on one of the 2 nodes it may run on"
    assert lack(room, [need_of(spec({GPU: 1, "memory": "1Ti"}))]) == text
    nowhere = [need_of(spec({GPU: 1}, nodeSelector={"zone": "x"}))]
    text = "none of the 3 nodes: 1 not ready, 2 ruled out by its nodeSelector, node affinity or tolerations"
    assert lack(room, nowhere) == f"needs 1 nvidia.com/gpu on one node, and it may run on {text}"
