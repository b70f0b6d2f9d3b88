"""Nothing serves in the middle of a rollout, though nothing stopped what did: after a reboot, a cordon, a crash."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from reconciler.model import Drain, Restart, Start, Stop, Strategy
from tests.host.rollout.test_plan_properties import DRAINED
from tests.support.examples import examples
from tests.support.simulation import PATIENCE, Host, beside, state, wanted

SOON = 8  # seconds: a start, and the passes around it; far less than `ready_timeout`
RECREATE = Strategy(0, 3, recreate=True)
ONE_MAY_LACK = Strategy(0, 1)


def play(host: Host, commit, seconds: float) -> None:
    for _ in range(int(seconds / 0.5)):
        host.step(commit)
        host.now += 0.5


def seconds_without(host: Host, commit, seconds: float) -> float:
    """For how long does nothing serve in this time?"""
    down = 0.0
    for _ in range(int(seconds / 0.5)):
        host.step(commit)
        host.now += 0.5
        down += 0 if host.serving("a") else 0.5
    return down


def upset(host: Host, commit, how: str) -> None:
    """What ends all replicas at once."""
    match how:
        case "reboot":
            host.restart()
        case "cordon":
            host.converge(replace(commit, drain=DRAINED))
        case "short cordon":
            play(host, replace(commit, drain=DRAINED), 0.5)
        case "crash":
            for key, replica in host.replicas.items():
                if replica.digest.startswith("good1"):
                    host.replicas[key] = replace(replica, alive=False)


UPSETS = ("reboot", "cordon", "short cordon", "crash")


@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from((None, Strategy(1, 0), Strategy(2, 1))),
    st.sampled_from(("never2", "crash2", "good2")),
    st.sampled_from(UPSETS),
    st.integers(0, 14),
)
@settings(max_examples=examples(80), deadline=None)
@example(1, 1, None, "never2", "crash", 6)
@example(1, 1, None, "never2", "reboot", 6)
def test_promoted_digest_serves_again_soon_whatever_its_successor_does(before, after, strategy, version, how, passes):
    host = Host(memory=before + after + 2, busy_seconds=1.0)
    host.converge(state(wanted("a", "good1", before, strategy=strategy)))
    commit = state(wanted("a", version, after, strategy=strategy))
    play(host, commit, passes / 2)
    if strategy and strategy.max_unavailable >= after:
        return
    upset(host, commit, how)
    play(host, commit, SOON)
    assert host.serving("a")
    # From now on it keeps serving: its successor starts next to it.
    assert seconds_without(host, commit, 2 * PATIENCE.ready_timeout) == 0
    host.converge(commit, passes=2000)
    version_left = version if version == "good2" else "good1"
    assert {r.digest for r in host.serving("a")} == {f"{version_left}-a"}


@pytest.mark.parametrize("how", UPSETS[:2])
@pytest.mark.parametrize(("strategy", "memory"), [(None, 1), (RECREATE, 9), (ONE_MAY_LACK, 9)])
def test_replica_that_stop_first_would_end_is_not_restored_first(how, strategy, memory):
    host = Host(memory=memory)
    host.converge(state(wanted("a", "good1", strategy=strategy)))
    commit = state(wanted("a", "good2", strategy=strategy))
    play(host, commit, 1)
    upset(host, commit, how)
    host.preflights["good2-a"] = replace(host.preflights["good1-a"], parsed="good2-a")
    since = len(host.log)
    host.converge(commit)
    assert [a.digest for a in host.log[since:] if isinstance(a, Start)] == ["good2-a"]


def test_what_was_stopped_for_its_successor_is_not_started_again():
    host = Host(memory=1)
    host.converge(state(wanted("a", "good1")))
    since, commit = len(host.log), state(wanted("a", "good2"))
    while not any(isinstance(action, Drain) for action in host.log):
        host.step(commit)
        host.now += 0.5
    # Meanwhile there is room for both.
    host.converge(commit)
    assert [a.digest for a in host.log[since:] if isinstance(a, Start)] == ["good2-a"]


@pytest.mark.parametrize("version", ["good2", "never2"])
@pytest.mark.parametrize("before", [2, 3])
def test_what_comes_back_leaves_room_for_fewer_replicas_of_its_successor(before, version):
    host = Host(memory=before)
    host.converge(state(wanted("a", "good1", before)))
    commit = state(wanted("a", version))
    play(host, commit, 1)
    host.restart()
    since = len(host.log)
    play(host, commit, SOON)
    assert [r.digest for r in host.serving("a")][:1] == ["good1-a"]
    assert [a.digest for a in host.log[since:] if isinstance(a, Start)][:1] == ["good1-a"]
    assert seconds_without(host, commit, 2 * PATIENCE.ready_timeout) == 0


def test_nobody_looks_all_the_time_while_the_next_start_backs_off():
    host = Host(memory=2)
    neighbour = wanted("b", "good1")
    host.converge(state(wanted("a", "good1"), neighbour))
    host.broken.add("good1-a")
    # Its successor is too large for the room next to its neighbour.
    commit, waits = state(wanted("a", "good2", memory=2), neighbour), []
    for _ in range(100):
        plan = host.step(commit)
        if plan.verdicts[commit.services[0].id].step.startswith("crashed repeatedly") and not plan.actions:
            waits.append(plan.look_again_at - plan.at)
        host.now += 0.5
    assert max(waits) > 10


@pytest.mark.parametrize("strategy", [None, Strategy(1, 0), ONE_MAY_LACK])
def test_what_dies_while_its_successor_has_no_room_is_replaced(strategy):
    neighbour = wanted("b", "good1", memory=2)
    host = Host(memory=5)
    host.converge(state(wanted("a", "good1", 3), neighbour))
    commit = state(wanted("a", "good2", 3, memory=4, strategy=strategy), neighbour)
    play(host, commit, SOON)
    for _ in range(2):
        first = min(host.replicas)
        host.replicas[first] = replace(host.replicas[first], alive=False)
        play(host, commit, 30)
        assert sum(r.alive for r in host.replicas.values() if r.service.name == "a") == 3
    assert not host.step(commit).actions


@pytest.mark.parametrize(("replicas", "room", "larger"), [(2, 2, 1), (3, 3, 1), (3, 3, 3), (3, 4, 2)])
def test_those_that_come_back_one_after_another_all_come_back(replicas, room, larger):
    """None is stopped while it starts, and none drained too early, because another one was ready before."""
    host = Host(memory=room)
    host.converge(state(wanted("a", "good1", replicas)))
    commit = state(wanted("a", "good2", replicas, memory=larger))
    play(host, commit, 0.5)
    host.restart()
    while not host.replicas or not all(r.alive for r in host.replicas.values()):
        play(host, commit, 0.5)
    since, started = len(host.log), sorted(host.replicas)
    for number, key in enumerate(started):
        host.replicas[key] = replace(host.replicas[key], created_at=host.now + 3 * number)
    play(host, commit, SOON)
    assert len(started) == replicas
    assert not any(isinstance(action, Stop) for action in host.log[since : since + 4])
    assert seconds_without(host, commit, 2 * PATIENCE.ready_timeout) == 0
    drained = [action.replica for action in host.log[since:] if isinstance(action, Drain)]
    assert len(drained) == len({*drained})


@pytest.mark.parametrize("how", ["reboot", "cordon"])
def test_larger_newcomer_does_not_take_room_of_neighbour_that_comes_back(how):
    host = Host(memory=2)
    neighbour = wanted("b", "good1")
    host.converge(state(wanted("a", "good1"), neighbour))
    commit = state(wanted("a", "good2", memory=2), neighbour)
    host.converge(commit)
    upset(host, commit, how)
    host.converge(commit)
    assert len(host.serving("b")) == 1


@pytest.mark.parametrize("how", [*UPSETS, *Restart])
@pytest.mark.parametrize("strategy", [None, RECREATE, ONE_MAY_LACK])
def test_what_is_proven_comes_back_where_its_successor_finds_no_room(how, strategy):
    host = Host(memory=2)
    neighbour = wanted("b", "good1")
    host.converge(state(wanted("a", "good1", strategy=strategy), neighbour))
    commit = state(wanted("a", "good2", memory=2, strategy=strategy), neighbour)
    host.converge(commit)
    if isinstance(how, Restart):
        host.restart_processes("a", how)
    else:
        upset(host, commit, how)
    verdict = host.converge(commit).verdicts[commit.services[0].id]
    assert [r.digest for r in host.serving("a")] == ["good1-a"]
    assert [one.code for one in verdict.blocked] == ["InsufficientMemory"]


@pytest.mark.parametrize("kind", ["broken", "refused"])
def test_cure_does_not_wait_for_what_does_not_come_up_any_more(kind):
    host = Host()
    host.converge(state(wanted("a", "good1")))
    host.restart()
    getattr(host, kind).add("good1-a")
    commit = state(wanted("a", "good2"))
    play(host, commit, SOON + 4)
    assert [r.digest for r in host.serving("a")] == ["good2-a"]
    host.converge(commit, passes=2000)
    assert [r.digest for r in host.serving("a")] == ["good2-a"]


def test_replica_that_never_gets_ready_delays_its_successor_only_once():
    host = Host()
    host.converge(state(wanted("a", "good1")))
    host.restart()
    # A driver was updated: the old engine starts, and hangs.
    host.start_seconds = 1e6
    commit = state(wanted("a", "good2"))
    started: list[str] = []
    while "good2-a" not in started:
        host.step(commit)
        host.now += 0.5
        started = [a.digest for a in host.log if isinstance(a, Start)]
    assert started == ["good1-a", "good1-a", "good2-a"]


def test_canary_comes_after_what_it_stands_beside():
    host = Host(memory=2)
    one = wanted("a", "good1")
    host.converge(state(one))
    commit = state(beside(one, "good2", 20))
    host.converge(commit)
    host.restart()
    host.memory = 1
    play(host, commit, SOON)
    assert [r.digest for r in host.serving("a")] == ["good1-a"]


def test_canary_waits_for_every_replica_of_what_it_stands_beside():
    """On a shared GPU they start one after another: in between there is room that is not the canary's."""
    host = Host(gpus=1, ports=2)
    one = wanted("a", "good1", 2, gpus=1, share=200)
    host.converge(state(one))
    commit = state(beside(one, "good2", 20))
    for _ in ("at first", "after a reboot"):
        host.converge(commit)
        assert [r.digest for r in host.serving("a")] == ["good1-a", "good1-a"]
        host.restart()
