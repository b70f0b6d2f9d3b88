"""The line of a rollout that failed: how far it came, what it failed of, and the way back."""

from __future__ import annotations

from collections.abc import Iterator

from reconciler.model import ReasonCode
from reconciler.model.crash_signs import BEFORE_READY, WHILE_SERVING
from reconciler.report.stages.progress import as_it_stands
from reconciler.report.stages.rollout import RolloutFacts, is_staying
from reconciler.report.stages.stage import RolloutStage, StageName, StageState, names_of
from reconciler.report.status_parts import Document

# What a replica fails of once it was started.
_RAN = frozenset(
    {
        ReasonCode.CRASHED,
        ReasonCode.CRASH_LOOP_BACKOFF,
        ReasonCode.ENGINE_DEAD,
        ReasonCode.HUNG,
        ReasonCode.MODEL_LOAD_FAILED,
        ReasonCode.NOT_SERVING,
        ReasonCode.OOM_KILLED,
        ReasonCode.PORT_TAKEN,
        ReasonCode.PROGRESS_DEADLINE_EXCEEDED,
    }
)
_NEVER_READY = frozenset({ReasonCode.MODEL_LOAD_FAILED, ReasonCode.NOT_SERVING, ReasonCode.PROGRESS_DEADLINE_EXCEEDED})
_NOT_STAGED = frozenset({ReasonCode.IMAGE_PULL_FAILED, ReasonCode.MODEL_NOT_FOUND, ReasonCode.STAGING_FAILED})


def failed_stages(r: RolloutFacts) -> Iterator[RolloutStage]:
    """Up to the stage that failed it is known what was done, or said that it is not; then comes the way back."""
    service, rejected = r.service, r.service["rejected"]
    names = names_of(r.kind)
    known, failed = _reached(rejected, names)
    for number, name in enumerate(names):
        if name is failed:
            yield RolloutStage(name, StageState.FAILED, rejected["at"], rejected["reason"])
        elif name is StageName.DRAINED and names.index(failed) > names.index(StageName.STARTED):
            # It may have made room, or not. Before anything was promoted there was nothing to drain.
            yield RolloutStage(name, StageState.SKIPPED if service["promoted"] is None else StageState.UNKNOWN)
        elif number > names.index(failed):
            yield RolloutStage(name, StageState.SKIPPED)
        else:
            yield RolloutStage(name, StageState.DONE if number < known else StageState.UNKNOWN)
    yield from _rolled_back(r)


def _reached(rejected: Document, names: tuple[StageName, ...]) -> tuple[int, StageName]:
    """How many stages were done for certain, and which one failed."""
    code, said = rejected["code"], rejected["reason"]
    if code in _NOT_STAGED:
        return 0, StageName.STAGED
    if code not in _RAN:
        return 1, StageName.STARTED
    if code in _NEVER_READY or BEFORE_READY in said:
        return 2, StageName.FIRST_TOKEN
    return (names.index(StageName.SWITCHED) + 1 if WHILE_SERVING in said else 2), StageName.PROMOTED


def _rolled_back(r: RolloutFacts) -> Iterator[RolloutStage]:
    good = r.service["promoted"]
    if good is None or good["digest"] == r.digest:
        return
    back = [
        one for one in r.service["replicas"] if one["digest"] == good["digest"] and one["readyAt"] and is_staying(one)
    ]
    wanted = good["replicas"] or 1
    serves = f"{good['digest'][:8]} serves"
    if len(back) >= wanted:
        yield RolloutStage(StageName.ROLLED_BACK, StageState.DONE, detail=serves)
        return
    count = f"{len(back)} of {wanted}" if wanted > 1 else ""
    found = RolloutStage(StageName.ROLLED_BACK, StageState.ACTIVE, detail=count)
    yield as_it_stands(r, found)
