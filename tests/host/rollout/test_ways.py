"""The table of ways: every combination has one row, and a plan comes to every row."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest

from reconciler.host.rollout import strategy
from reconciler.host.rollout.goal import GoalKind
from reconciler.host.rollout.move import STEPS
from reconciler.host.rollout.strategy import TABLE, RequestedStrategy, Room, Row, Serving, Way, find_row
from reconciler.model import NO_ORIGIN, Desired, Reason, ReasonCode, Strategy
from tests.support.simulation import Host, state, wanted

FULL = Reason(ReasonCode.INSUFFICIENT_GPU, "no GPU", NO_ORIGIN)


def test_every_combination_stands_in_exactly_one_row() -> None:
    for goal, serving, asked, room in product(GoalKind, Serving, RequestedStrategy, Room):
        rows = [row for row in TABLE if row.holds(goal, serving, asked, room)]
        assert len(rows) == 1, (goal, serving, asked, room, rows)
        assert find_row(goal, serving, asked, room) == rows[0]


def test_every_way_is_in_the_table_and_has_steps() -> None:
    assert {row.way for row in TABLE} == set(Way) == STEPS.keys()


# ---------------------------------------------------------------- plans that come to each row


def roll(memory: int, *after: Desired, before: tuple[Desired, ...] = (wanted("a", "good1"),), passes: int = 6) -> None:
    """From one commit to another on a host with so much memory."""
    host = Host(memory=memory, busy_seconds=5)
    host.converge(state(*before))
    play(host, *after, passes=passes)


def play(host: Host, *services: Desired, passes: int = 6) -> None:
    for _ in range(passes):
        host.step(state(*services))
        host.now += 0.5


def fall_back() -> None:
    host = Host(memory=2)
    host.converge(state(wanted("a", "good1")))
    play(host, wanted("a", "never1"))
    host.restart()
    play(host, wanted("a", "never1"))


def crowd(asked: Strategy | None) -> None:
    """A neighbour holds what the successor needs, which is more than its predecessor has."""
    neighbour = wanted("b", "good1", memory=2)
    roll(3, wanted("a", "good2", memory=2, strategy=asked), neighbour, before=(wanted("a", "good1"), neighbour))


PLANS: dict[Way, Callable[[], None]] = {
    Way.FORGET: lambda: roll(1),
    Way.EMPTY: lambda: roll(1, wanted("a", "good1", replicas=0)),
    Way.KEEP: lambda: roll(1, wanted("a", "good2", blocked=(FULL,))),
    Way.GIVE_UP: lambda: play(Host(), wanted("a", "reject1")),
    Way.FALL_BACK: fall_back,
    Way.START: lambda: play(Host(), wanted("a", "good1")),
    Way.SURGE: lambda: roll(2, wanted("a", "good2")),
    Way.WAIT: lambda: roll(2, wanted("a", "good2"), before=(wanted("a", "good1"), wanted("b", "good1"))),
    Way.STOP_FIRST: lambda: roll(1, wanted("a", "good2")),
    Way.BLOCKED: lambda: crowd(None),
    Way.OBEY: lambda: roll(1, wanted("a", "good2", strategy=Strategy(0, 1))),
    Way.OBEY_UPWARDS: lambda: crowd(Strategy(0, 1)),
}


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.way)
def test_row_is_reached_by_a_plan(row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    reached: list[Row] = []

    def note(*measured: object) -> Row:
        reached.append(find_row(*measured))  # type: ignore[arg-type]
        return reached[-1]

    monkeypatch.setattr(strategy, "find_row", note)
    PLANS[row.way]()
    assert row in reached
