"""Actions of a pass over a cluster: in which order, and what a failure holds up."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.cluster.execute import execute
from reconciler.errors import Retryable
from reconciler.host.rollout import failures
from reconciler.model import (
    Action,
    ApplyObject,
    DeleteObject,
    DesiredObject,
    ObjectId,
    Origin,
    Outcome,
    Plan,
    WriteInventory,
)

INVENTORY = WriteInventory({}, "new")


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as made:
        yield made


def applied(name: str, wave: int = 0, namespace: str = "default") -> ApplyObject:
    one = ObjectId("", "ConfigMap", namespace, name)
    return ApplyObject(DesiredObject(one, Origin("a.yaml", 1), {}, name), "new", wave=wave)


def outcomes(
    actions: tuple[Action, ...], failing: set[Action], pool: ThreadPoolExecutor
) -> tuple[dict[Action, Outcome], list[Action]]:
    done: list[Action] = []

    def perform(action: Action) -> None:
        done.append(action)
        if action in failing:
            raise Retryable("no")

    results = execute(Plan("prod", "r", 0.0, actions), perform, pool, ())
    assert {one.action for one in results} == set(actions)
    return {one.action: one.outcome for one in results}, done


def test_nothing_is_applied_when_the_inventory_cannot_be_written(pool: ThreadPoolExecutor):
    actions = (INVENTORY, applied("a"), DeleteObject(ObjectId("", "ConfigMap", "default", "b"), "1", "gone"))
    found, done = outcomes(actions, {INVENTORY}, pool)

    assert done == [INVENTORY]
    assert list(found.values()) == [Outcome.FAILED, Outcome.SKIPPED, Outcome.SKIPPED]


def test_failure_holds_up_later_waves_of_its_namespace_alone(pool: ThreadPoolExecutor):
    bad, beside, later, elsewhere = applied("bad"), applied("beside"), applied("later", 1), applied("x", 1, "other")
    found, _ = outcomes((bad, beside, later, elsewhere), {bad}, pool)

    assert found == {
        bad: Outcome.FAILED,
        beside: Outcome.DONE,
        later: Outcome.SKIPPED,
        elsewhere: Outcome.DONE,
    }


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["a", "b", ""]), st.booleans()), max_size=12))
def test_every_action_has_one_result_and_waves_begin_in_order(
    pool: ThreadPoolExecutor, given_: list[tuple[int, str, bool]]
):
    given_.sort(key=lambda each: each[0])
    actions = tuple(applied(str(number), wave, where) for number, (wave, where, _) in enumerate(given_))
    failing = {action for action, (_, _, fails) in zip(actions, given_, strict=True) if fails}
    found, done = outcomes(actions, failing, pool)

    waves = [action.wave for action in done if isinstance(action, ApplyObject)]
    assert waves == sorted(waves)
    for action in actions:
        before = [each for each in actions if each.wave < action.wave and each in failing and each in done]
        if any(each.object.namespace in ("", action.object.namespace) for each in before):
            assert found[action] is Outcome.SKIPPED


def test_each_object_waits_for_its_own_retry(pool: ThreadPoolExecutor):
    bad, good = applied("bad"), applied("good")
    plan = Plan("prod", "r", 0.0, (bad, good))

    def perform(action: Action) -> None:
        if action == bad:
            raise Retryable("no")

    known = failures.count({}, plan, execute(plan, perform, pool, ()))

    assert failures.waiting(known, plan) == (bad,)
