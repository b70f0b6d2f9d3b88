"""`plan` and `diff` show what they can, whatever keeps one service from being looked at."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from reconciler.errors import Retryable, Terminal
from reconciler.loop.once import _look
from reconciler.model import AskPreflight, EffectiveSpec, Origin, Plan, ServiceId, Unreachable

ASKS = [
    AskPreflight(ServiceId("default", name), name, EffectiveSpec("i", (), ()), Origin("a.yaml", 1), "test")
    for name in ("bad", "good")
]


@pytest.mark.slow
@pytest.mark.parametrize("error", [Retryable("its disk hangs"), Terminal("nothing runs its image")])
def test_plan_is_made_where_one_service_cannot_be_asked_about(error: Exception) -> None:
    asked: list[str] = []
    said: list[str] = []

    def run_pass(snapshot: object, act: bool) -> Any:
        left = tuple(each for each in ASKS if each.service.name not in asked or each.service.name == "bad")
        return SimpleNamespace(desired=None, observed=Unreachable("box", 0.0, ""), plan=Plan("box", "", 0.0, left))

    def perform(action: AskPreflight) -> None:
        asked.append(action.service.name)
        if action.service.name == "bad":
            raise error

    place: Any = SimpleNamespace(
        reconciler=SimpleNamespace(run_pass=run_pass, rehearse=lambda plan: False),
        target=SimpleNamespace(perform=perform),
        wake=threading.Event(),
    )
    _, _, plan = _look(place, None, said.append)  # type: ignore[arg-type]
    assert [action.service.name for action in plan.actions if isinstance(action, AskPreflight)] == ["bad"]
    assert sorted(asked) == ["bad", "good"]
    assert f"default/bad: {error}" in said
