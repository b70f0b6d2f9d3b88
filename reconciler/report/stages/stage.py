"""What a stage is: a step of a rollout, and how it stands with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from reconciler.report.status_parts import Document

CLUSTER = "cluster"


class StageName(StrEnum):
    """A step of a rollout, as it is shown."""

    STAGED = "staged"
    STARTED = "started"
    FIRST_TOKEN = "first token"  # noqa: S105
    SWITCHED = "switched"
    DRAINED = "drained"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled back"


class StageState(StrEnum):
    """How it stands with a stage."""

    DONE = "done"
    ACTIVE = "active"
    WAITING = "waiting"  # its turn is to come, or something holds it up: then its detail says what
    FAILED = "failed"
    SKIPPED = "skipped"  # not needed, or not reached any more
    UNKNOWN = "unknown"


_BEGIN = (StageName.STAGED, StageName.STARTED, StageName.FIRST_TOKEN, StageName.SWITCHED)
_ON_HOST = (*_BEGIN, StageName.PROMOTED, StageName.DRAINED)
_ON_CLUSTER = (*_BEGIN, StageName.DRAINED, StageName.PROMOTED)
OVER = (StageState.DONE, StageState.SKIPPED)


@dataclass(frozen=True, slots=True)
class RolloutStage:
    """One stage. `at` is a time of the document."""

    name: StageName
    state: StageState
    at: str | None = None
    detail: str = ""

    @property
    def is_over(self) -> bool:
        return self.state in OVER

    @property
    def document(self) -> Document:
        return {"name": self.name.value, "state": self.state.value, "at": self.at, "detail": self.detail}


def names_of(kind: str) -> tuple[StageName, ...]:
    """All stages of a rollout on a target of this kind, in their order where there is room for both versions."""
    return _ON_CLUSTER if kind == CLUSTER else _ON_HOST


def earliest(replicas: Sequence[Document], key: str) -> str | None:
    """The first of these times; None where none is known."""
    return min((one[key] for one in replicas if key and one[key]), default=None)


def joined(*texts: str) -> str:
    """As one detail. What one of them says is not said again by another."""
    told = [text for text in dict.fromkeys(texts) if text and not any(text in one for one in texts if one != text)]
    return "; ".join(told)
