"""The names of events."""

from __future__ import annotations

import re
from typing import get_args

from reconciler.model import Action
from reconciler.report.actions import _EVENTS


def test_every_action_has_one_event_name_in_snake_case() -> None:
    assert set(_EVENTS) == set(get_args(Action))
    assert len(set(_EVENTS.values())) == len(_EVENTS)
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)+", name) for name in _EVENTS.values())
