"""Which strategy a Deployment gets: the table, what it is measured from, and that what it chooses comes to an end."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.cluster.rollout.gpus import Room, need_of, read_room
from reconciler.cluster.rollout.strategy import (
    Count,
    RequestedStrategy,
    ServiceChange,
    Transition,
    Way,
    _is_ready,
    choose,
    count_of,
    find_row,
    start_seconds,
)
from reconciler.model import NO_ORIGIN, Origin, ReasonCode, Strategy
from tests.cluster.rollout.test_gpus import GPU, node, pod, spec

RECREATE = Strategy(0, 1, recreate=True)
SURGE = Strategy(1, 0)
LINE = Origin("tiny.yaml", 7)


def rollout(gpus: int = 1, old: int = 1, nodes: int = 1, **parts: Any) -> ServiceChange:
    pods = tuple(need_of(spec({GPU: gpus})) for _ in range(nodes))
    return ServiceChange(pods, tuple(pod("a", gpus) for _ in range(old)), **{"replicas": old, "origin": LINE, **parts})


def chosen(r: ServiceChange, size: int, others: int = 0, **parts: Any) -> Transition:
    return choose(r, read_room([node("a", size, **parts)], [*r.old, *([pod("a", others)] if others else [])]))


# ---------------------------------------------------------------- properties


@pytest.mark.parametrize(("asked", "room", "count"), list(product(RequestedStrategy, Room, Count)), ids=str)
def test_every_combination_has_one_row(asked: RequestedStrategy, room: Room, count: Count) -> None:
    way = find_row(asked, room, count).way
    assert (way is Way.BLOCKED) == (room is Room.NONE)
    assert (way is Way.OBEY) == (asked is RequestedStrategy.EXPLICIT and room is not Room.NONE)


sizes = st.integers(0, 9)
rollouts = st.builds(
    lambda gpus, old, asked, nodes: rollout(gpus, old, nodes, asked=asked),
    st.integers(0, 4),
    st.integers(0, 9),
    st.sampled_from([None, RECREATE, SURGE]),
    st.integers(1, 2),
)


@given(rollouts, sizes, sizes)
def test_a_strategy_is_added_only_where_git_has_none(r: ServiceChange, size: int, others: int) -> None:
    transition = chosen(r, size, others)
    if transition.strategy is not None:
        assert r.asked is None
        assert r.old
        assert r.needs_devices


@given(rollouts, sizes, sizes)
def test_what_is_blocked_or_changed_says_why_with_numbers(r: ServiceChange, size: int, others: int) -> None:
    transition = chosen(r, size, others)
    if transition.way in (Way.BLOCKED, Way.RECREATE, Way.ONE_BY_ONE):
        assert f"needs {r.pods[0].requests[GPU] // 1000} {GPU} on one node, and at most" in transition.text
    assert (transition.way is Way.BLOCKED) <= bool(transition.lacking)


def ends(r: ServiceChange, free: int, surge: int, missing: int, recreate: bool = False) -> bool:
    """Kubernetes' Deployment controller, played through with pods that each need one of the GPUs: what is not ready
    goes first, and never more than leaves enough available, counting each new pod that is not."""
    good, bad, new, ready, count = sum(map(_is_ready, r.old)), 0, 0, 0, r.replicas
    bad = len(r.old) - good
    for _ in range(4 * count + 8):
        if recreate:
            free, good, bad = free + good + bad, 0, 0
        new += max(0, min(count - new, count + surge - good - bad - new))
        started = min(new - ready, free)
        ready, free = ready + started, free - started
        least = count - missing
        failing = max(0, min(bad, good + bad + new - least - (new - ready)))
        bad, free = bad - failing, free + failing
        gone = max(0, min(good, good + ready - least, good + bad + new - least - (new - ready)))
        good, free = good - gone, free + gone
    return ready == count and not good and not bad


def replicas(count: int, good: int, bad: int) -> ServiceChange:
    return replace(
        rollout(1, 0),
        old=tuple(with_state(good=True) for _ in range(good)) + tuple(with_state(good=False) for _ in range(bad)),
        replicas=count,
    )


def with_state(good: bool) -> dict[str, Any]:
    made = pod("a", 1)
    made["metadata"] = {"uid": object()}
    made["status"]["conditions"] = [{"type": "Ready", "status": "True" if good else "False"}]
    return made


@given(st.integers(1, 9), st.integers(0, 3), st.integers(0, 3), st.integers(0, 2))
def test_what_is_chosen_comes_to_an_end(count: int, spare: int, failing: int, surplus: int) -> None:
    """`failing` replicas are not ready; `surplus` pods more are of a rollout that did not come to its end."""
    good = max(0, count - failing)
    r = replicas(count, good, count - good + surplus)
    if not r.old:
        return
    way = chosen(r, len(r.old) + spare).way
    default = math.ceil(count / 4), count // 4
    match way:
        case Way.RECREATE:
            assert ends(r, spare, 0, 0, recreate=True)
            assert not ends(r, spare, *default)
        case Way.ONE_BY_ONE:
            assert ends(r, spare, 0, 1)
            assert not ends(r, spare, *default)
        case _:
            assert way is Way.AS_IT_IS
            assert ends(r, spare, *default)


@given(rollouts, rollouts, st.integers(1, 9))
def test_two_rollouts_never_count_on_the_same_room(first: ServiceChange, second: ServiceChange, size: int) -> None:
    room = read_room([node("a", size)], [*first.old, *second.old])
    one = choose(first, room)
    two = choose(second, one.left)
    surging = [
        t for t, r in ((one, first), (two, second)) if t.way is Way.AS_IT_IS and r.needs_devices and r.replicas < 4
    ]
    if len(surging) == 2:
        asked = sum(p.requests[GPU] for r in (first, second) for p in r.pods)
        assert asked <= room.nodes["a"].free[GPU]


# ---------------------------------------------------------------- examples


@pytest.mark.parametrize(
    ("rule", "given", "size", "expected"),
    [
        ("nothing runs yet", rollout(8, 0), 8, Way.START),
        ("one more has room", rollout(4), 8, Way.AS_IT_IS),
        ("one, and no room beside it", rollout(8), 8, Way.RECREATE),
        ("three, and no room for a fourth", rollout(1, 3), 3, Way.ONE_BY_ONE),
        ("of four one may go first as it is", rollout(1, 4), 4, Way.AS_IT_IS),
        ("more GPUs than there would be", rollout(8), 4, Way.BLOCKED),
        ("git asks for a surge that cannot be", rollout(8, asked=SURGE), 8, Way.OBEY),
        ("git asks for Recreate", rollout(1, asked=RECREATE), 8, Way.OBEY),
        ("Recreate would end it for good", rollout(8, asked=RECREATE), 4, Way.BLOCKED),
        ("Knative has its own way", rollout(8, mode="Knative"), 8, Way.AS_IT_IS),
        ("no devices, no question", rollout(0), 0, Way.AS_IT_IS),
        ("workers need their GPUs twice", rollout(4, 2, nodes=2), 8, Way.BLOCKED),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_way_of_a_service(rule: str, given: ServiceChange, size: int, expected: Way) -> None:
    assert chosen(given, size).way is expected, rule


def test_recreate_names_what_lacks_and_the_outage_to_expect() -> None:
    transition = chosen(rollout(8, starts=(290.2, 311.4), grace_seconds=150), 8)
    lacks = "needs 8 nvidia.com/gpu on one node, and at most 0 is free on one of the 1 node it may run on"
    price = "for at most 150 s while the old pod ends, then about 312 s, as before, while the new one starts"
    assert transition.text == f"Recreate: no room for old and new ({lacks}); nothing serves {price}"
    assert transition.strategy == {"type": "Recreate"}


def test_an_outage_that_nobody_measured_has_no_figure() -> None:
    assert "then minutes (no start of it was seen yet) while the new one starts" in chosen(rollout(8), 8).text


def test_several_replicas_go_one_by_one() -> None:
    transition = chosen(rollout(1, 3), 3)
    assert transition.strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}
    assert "2 of 3 replicas serve for at most 30 s" in transition.text


def test_a_strategy_that_can_never_move_is_obeyed_with_a_warning() -> None:
    (reason,) = chosen(rollout(8, asked=SURGE), 8).lacking
    assert reason.code is ReasonCode.INSUFFICIENT_GPU
    assert reason.origin == LINE
    assert reason.message.startswith(
        "deploymentStrategy lets no replica go, and there is no room for one more: needs 8"
    )
    assert not chosen(rollout(8, asked=RECREATE), 8).lacking


def test_an_autoscaler_makes_room_unknown_and_says_so() -> None:
    transition = chosen(rollout(8), 8, labels={"karpenter.sh/nodepool": "gpu"})
    assert transition.way is Way.AS_IT_IS
    assert transition.text.endswith("is not known: no node has room now, and Karpenter may add one")


def test_parts_of_gpus_are_named_by_what_they_are() -> None:
    mig = {"nvidia.com/mig-1g.10gb": 1}
    r = ServiceChange((need_of(spec(mig)),), (pod("a", 0),), origin=NO_ORIGIN)
    (reason,) = choose(r, read_room([node("a")], list(r.old))).lacking
    assert reason.code is ReasonCode.INSUFFICIENT_ACCELERATOR
    assert "needs 1 nvidia.com/mig-1g.10gb on one node" in reason.message


def test_a_start_took_from_creation_to_ready() -> None:
    def started(created: str, ready: str, status: str = "True") -> dict[str, Any]:
        made = pod("a", 1)
        made["metadata"]["creationTimestamp"] = created
        made["status"]["conditions"] = [{"type": "Ready", "status": status, "lastTransitionTime": ready}]
        return made

    quick = started("2026-11-29T10:00:00Z", "2026-11-29T10:01:00Z")
    slow = started("2026-11-29T10:00:00Z", "2026-11-29T10:05:12Z")
    starting = started("2026-11-29T09:00:00Z", "2026-11-29T10:00:00Z", "False")
    assert start_seconds([quick, slow, starting]) == 312
    assert start_seconds([starting, started("", "x"), pod("a", 1)]) is None


def test_counts_follow_the_rounding_of_kubernetes() -> None:
    assert [count_of(n) for n in (0, 1, 2, 3, 4, 9)] == [
        Count.ONE,
        Count.ONE,
        Count.FEW,
        Count.FEW,
        Count.MANY,
        Count.MANY,
    ]
