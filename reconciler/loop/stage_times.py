"""When stages of rollouts were over that no fact dates: seen from one look at the status to the next.

A cache: who loses it does not know these times any more, and says so.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from reconciler.report.convergence import full_name, services
from reconciler.report.stages import StageState
from reconciler.report.status import Document

# Longer ago than that, a look says nothing of when it happened.
_SOON = 5.0


@dataclass(frozen=True, slots=True)
class _Seen:
    """One service at the time `at`: its stages in their order, and when those that are done were."""

    at: str | None
    order: tuple[str, ...]
    done: Mapping[str, str | None]


class StageTimes:
    """Those of one daemon. Called from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str, str], _Seen] = {}

    def complete(self, status: Document) -> None:
        """Add to a new status document what is known of its stages: times, and in which order they happened."""
        with self._lock:
            now = {}
            for target, service in services(status):
                if service["stages"]:
                    key = (target["name"], full_name(service), service["digest"])
                    now[key] = _look(self._known.get(key), service, target["observedAt"])
            self._known = now


def _look(before: _Seen | None, service: Document, at: str | None) -> _Seen:
    stages: list[Document] = service["stages"]
    done: dict[str, str | None] = {}
    for one in stages:
        if one["state"] == StageState.DONE:
            if one["at"] is None and before is not None:
                one["at"] = before.done[one["name"]] if one["name"] in before.done else _between(before.at, at)
            done[one["name"]] = one["at"]
    order = tuple(one["name"] for one in stages)
    if before and len(done) == len(stages) and set(before.order) == set(order):
        # Once all is done, facts do not tell any more what made room for what.
        order = before.order
        stages.sort(key=lambda one: order.index(one["name"]))
    return _Seen(at, order, done)


def _between(before: str | None, now: str | None) -> str | None:
    """When something happened between two looks."""
    if before is None or now is None:
        return None
    passed = datetime.fromisoformat(now) - datetime.fromisoformat(before)
    return now if 0 <= passed.total_seconds() <= _SOON else None
