"""Actions that fail: the last good digest comes back, the reason is shown, and tries become rarer."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.host.health import is_hosts_fault
from reconciler.model import (
    AskPreflight,
    Drain,
    HealthStatus,
    MarkReady,
    Promote,
    Reject,
    Remove,
    SetRoutes,
    Start,
    Stop,
    Strategy,
    TakeOwnership,
    Undrain,
)
from tests.support.examples import examples
from tests.support.simulation import Host, state, wanted

A = wanted("a", "good1")


def play(host: Host, commit, seconds: float, tick: float = 0.5):
    plan = None
    for _ in range(int(seconds / tick)):
        plan = host.step(commit)
        host.now += tick
    assert plan is not None
    return plan.verdicts[A.id]


@pytest.mark.parametrize(
    ("status", "words", "is_hosts"),
    [
        (217, "", True),
        (203, "Failed to execute /opt/python: No such file or directory", True),
        (203, "Failed to execute /opt/python: Argument list too long", False),
        (1, "OSError: [Errno 28] No space left on device", True),
        (1, "OSError: [Errno 12] Cannot allocate memory", True),
        (1, "ValueError: bad kernel", False),
        (-9, "", False),
    ],
)
def test_death_on_trial_blames_the_host_only_for_what_is_the_hosts(status: int, words: str, is_hosts: bool):
    host = Host()
    host.step(state(A))
    host.converge(state(A))
    (replica,) = host.observe().replicas
    assert is_hosts_fault(replace(replica, alive=False, exit_code=status, last_words=(words,))) is is_hosts


def starts(host: Host, version: str, since: int = 0) -> int:
    return sum(isinstance(one, Start) and one.digest == f"{version}-a" for one in host.log[since:])


@pytest.mark.parametrize("version", ["nostart2", "nohost2", "starve2"])
@pytest.mark.parametrize("memory", [1, 2])
def test_rollout_whose_start_fails_brings_the_last_good_digest_back(version: str, memory: int):
    host = Host(memory=memory)
    host.converge(state(A))
    verdict = play(host, state(wanted("a", version)), 20)
    assert [replica.digest for replica in host.serving("a")] == ["good1-a"]
    blamed = (A.id, f"{version}-a") in host.quarantines
    assert blamed == (version == "nostart2")
    assert bool(verdict.rejected) == blamed
    while not (blamed or verdict.blocked):
        verdict = play(host, state(wanted("a", version)), 1)
    assert verdict.health.phase is HealthStatus.HEALTHY


def test_start_that_fails_because_of_the_host_backs_off():
    host = Host(memory=1)
    host.converge(state(A))
    commit = state(wanted("a", "nohost2"))
    began = len(host.log)
    down, end = 0.0, host.now + 6 * 3600
    while host.now < end:
        pause = max(0.5, (host.step(commit).look_again_at or 0) - host.now)
        host.now += pause
        down += pause * (not host.serving("a"))
    drains = sum(isinstance(one, Drain) for one in host.log[began:])
    assert drains <= 11
    assert down < 11 * 15
    assert not host.quarantines


def test_start_that_failed_is_tried_again_soon_where_there_is_room():
    host = Host(memory=2)
    host.converge(state(A))
    commit = state(wanted("a", "good2"))
    host.refused = {"good2-a"}
    play(host, commit, 900, 5)
    host.refused.clear()
    play(host, commit, 60)
    assert [replica.digest for replica in host.serving("a")] == ["good2-a"]


def test_replica_whose_start_keeps_failing_is_degraded_with_the_cause():
    host = Host(memory=1)
    host.converge(state(A))
    host.restart()
    host.refused = {"good1-a"}
    verdict = play(host, state(A), 120)
    assert verdict.health.phase is HealthStatus.DEGRADED
    assert "no user of that name" in verdict.health.reason.message
    (failure,) = host.failures.values()
    assert (failure.action, failure.subject) == ("start", "good1-a")
    assert 6 <= failure.tries <= 10
    host.refused.clear()
    play(host, state(A), 40)
    assert host.serving("a")
    assert not host.failures


def test_service_that_never_started_is_missing_with_the_cause():
    verdict = play(Host(), state(wanted("a", "nohost1")), 60)
    assert verdict.health.phase is HealthStatus.MISSING
    assert "no user of that name" in verdict.health.reason.message


def test_start_that_fails_once_is_not_given_up():
    host = Host(memory=1)
    host.converge(state(A))
    commit = state(wanted("a", "good2"))
    host.failing = {Start}
    began = len(host.log)
    while not host.tried:
        host.step(commit)
        host.now += 0.5
    host.failing.clear()
    host.converge(commit)
    assert [replica.digest for replica in host.serving("a")] == ["good2-a"]
    assert starts(host, "good1", began) == 0


def test_quarantine_that_cannot_be_kept_does_not_hold_up_last_good_digest():
    host = Host(memory=1)
    host.converge(state(A))
    host.failing = {Reject}
    play(host, state(wanted("a", "nostart2")), 20)
    assert [replica.digest for replica in host.serving("a")] == ["good1-a"]


KINDS = (Start, Stop, Drain, Undrain, Remove, SetRoutes, Promote, MarkReady, AskPreflight, Reject, TakeOwnership)


@pytest.mark.slow
@given(
    st.sampled_from(KINDS),
    st.integers(1, 2),
    st.integers(0, 1),
    st.sampled_from((None, Strategy(1, 0), Strategy(0, 1))),
    st.sampled_from(("good2", "crash2", "nostart2", "nohost2", "starve2")),
    st.booleans(),
)
@settings(max_examples=examples(60), deadline=None)
def test_action_that_always_fails_backs_off_and_gives_a_reason(kind, count, spare, strategy, version, dies):
    host = Host(memory=count + spare)
    host.converge(state(wanted("a", "good1", count, strategy=strategy)))
    host.failing = {kind}
    if dies:
        host.restart()
    commit = state(wanted("a", version, count, strategy=strategy))
    play(host, commit, 100)
    host.tried.clear()
    verdict = play(host, commit, 300, 2)
    # Routes are tried in every pass, and passes become rarer.
    assert kind is SetRoutes or len(host.tried) <= 2 * 300 / 30 + 10, (kind, host.failures)
    if host.tried and kind not in (AskPreflight, Reject):
        assert verdict.health.phase is not HealthStatus.HEALTHY or verdict.blocked or verdict.rejected, verdict
    host.failing.clear()
    host.failures = {}
    host.converge(commit, passes=2000)
    assert host.serving("a")
