"""A line of stages as text."""

from __future__ import annotations

from collections.abc import Sequence

from reconciler.report.stages.stage import OVER, StageState
from reconciler.report.status_parts import Document


def stages_line(stages: Sequence[Document], *, details: bool = True) -> str:
    """`staged (done) → started (active: 1 of 2) → first token → …`; a stage that is to come has its name alone."""
    return " → ".join(_word(one, one["detail"] if details else "") for one in stages)


def _word(stage: Document, detail: str) -> str:
    state = stage["state"]
    if state == StageState.WAITING and not detail:
        return str(stage["name"])
    return f"{stage['name']} ({state}: {detail})" if detail and state not in OVER else f"{stage['name']} ({state})"


def is_under_way(stages: Sequence[Document]) -> bool:
    """Does it go on by itself?"""
    return any(one["state"] == StageState.ACTIVE for one in stages)
