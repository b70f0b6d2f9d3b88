"""The blast guard: what passes, what must be approved, and what an approval is bound to."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.model import Deletion, GuardLimits, ReasonCode
from reconciler.model.guard import covers, examine, plan_hash

DELETIONS = st.lists(
    st.builds(Deletion, st.text(max_size=3), st.sampled_from(["", "u1", "u2"]), st.integers(0, 8)),
    max_size=12,
    unique_by=lambda each: each.key,
)
LIMITS = st.builds(
    GuardLimits,
    st.none() | st.integers(0, 12),
    st.none() | st.integers(0, 100),
    st.none() | st.integers(0, 32),
    st.booleans(),
)
OFF = GuardLimits(None, None, None, everything=True)


def some(count: int, gpus: int = 0) -> list[Deletion]:
    return [Deletion(f"default/s{number}", f"u{number}", gpus) for number in range(count)]


@given(DELETIONS, st.randoms(), st.integers(0, 8))
def test_plan_hash_ignores_order_repetition_and_gpus(deletions: list[Deletion], random, gpus: int) -> None:
    other = [replace(each, gpus=gpus) for each in deletions] + deletions[:2]
    random.shuffle(other)
    assert plan_hash(other) == plan_hash(deletions)


@given(DELETIONS, DELETIONS)
def test_plan_hash_differs_for_other_deletions(one: list[Deletion], other: list[Deletion]) -> None:
    same = {each.key for each in one} == {each.key for each in other}
    assert (plan_hash(one) == plan_hash(other)) == same


@given(DELETIONS, st.integers(0, 40), LIMITS, st.integers(0, 12))
def test_guard_passed_once_never_stops_the_rest(deletions, others: int, limits: GuardLimits, done: int) -> None:
    total = len(deletions) + others
    if examine(deletions, total, limits) is None:
        left = deletions[done:]
        assert examine(left, len(left) + others, limits) is None


@given(DELETIONS, LIMITS)
def test_guard_approved_covers_what_is_left_and_no_more(deletions: list[Deletion], limits: GuardLimits) -> None:
    assert covers(deletions, deletions[1:])
    assert not covers(deletions, [*deletions, Deletion("another", "u9")])
    assert all(not covers([replace(each, uid="other")], [each]) for each in deletions)


@given(LIMITS, st.booleans())
def test_guard_lets_a_plan_without_deletions_pass(limits: GuardLimits, rewritten: bool) -> None:
    assert examine([], 0, limits, rewritten_history=rewritten, missing_path="models") is None


@pytest.mark.parametrize(
    ("deletions", "total", "limits", "said"),
    [
        (some(3), 100, replace(OFF, objects=2), "3 of 100 would be deleted, which is more than 2 at once"),
        (some(4), 10, replace(OFF, percent=39), "4 of 10 would be deleted, which is more than 39 %"),
        (some(2, gpus=8), 100, replace(OFF, gpus=15), "what uses 16 GPUs would be deleted"),
        (some(1), 1, replace(OFF, everything=False), "all 1 that are owned here would be deleted"),
    ],
)
def test_guard_says_which_limit_is_exceeded(deletions, total: int, limits: GuardLimits, said: str) -> None:
    guard = examine(deletions, total, limits)
    assert guard is not None
    [reason] = guard.reasons
    assert reason.code is ReasonCode.APPROVAL_REQUIRED
    assert said in reason.message
    assert f"reconciler approve {plan_hash(deletions)}" in reason.message
    assert examine(deletions, total, OFF) is None


@pytest.mark.parametrize(
    ("deletions", "total", "limits"),
    [
        (some(2), 100, replace(OFF, objects=2)),
        (some(4), 10, replace(OFF, percent=40)),
        (some(2, gpus=8), 100, replace(OFF, gpus=16)),
        (some(1), 2, replace(OFF, everything=False)),
        (some(2), 3, replace(OFF, percent=1)),
    ],
)
def test_guard_lets_what_is_within_limits_pass(deletions, total: int, limits: GuardLimits) -> None:
    assert examine(deletions, total, limits) is None


def test_guard_stops_any_deletion_after_rewritten_history() -> None:
    guard = examine(some(1), 100, OFF, rewritten_history=True)
    assert guard is not None
    assert "history was rewritten" in guard.reasons[0].message


def test_guard_stops_any_deletion_for_a_missing_path() -> None:
    guard = examine(some(1), 100, OFF, missing_path="models")
    assert guard is not None
    assert "models/ is missing from git" in guard.reasons[0].message


def test_guard_stops_for_what_else_would_be_lost() -> None:
    guard = examine(some(1), 100, OFF, risks=["things.example.com would take along Thing a/b"])
    assert guard is not None
    assert "would take along Thing a/b; if that is meant" in guard.reasons[0].message
