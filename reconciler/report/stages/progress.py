"""How far a rollout is with each of its stages, and what holds it up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from reconciler.model.names import counted
from reconciler.report.stages.rollout import RolloutFacts
from reconciler.report.stages.stage import CLUSTER, RolloutStage, StageName, StageState, earliest, joined
from reconciler.report.status_parts import Document

# Of a pod that no node has taken yet.
_SCHEDULING = "Scheduling"


def stage_of(r: RolloutFacts, name: StageName) -> RolloutStage:
    """As if it were its turn: done, not needed, or active."""
    match name:
        case StageName.STAGED:
            return _staged(r)
        case StageName.STARTED:
            return _counted(r, name, r.started, "startedAt", "createdAt")
        case StageName.FIRST_TOKEN:
            return _first_token(r)
        case StageName.SWITCHED:
            return _counted(r, name, r.switched, "", "")
        case StageName.DRAINED:
            return _drained(r)
        case _:
            return _promoted(r)


def _staged(r: RolloutFacts) -> RolloutStage:
    pending = [one for one in r.service["staging"] if one["state"] != "Staged"]
    if r.is_over or r.started or (r.kind != CLUSTER and not pending):
        return RolloutStage(StageName.STAGED, StageState.DONE)
    detail = "; ".join(map(_bytes, pending)) if pending else r.service["phase"].lower()
    return RolloutStage(StageName.STAGED, StageState.ACTIVE, earliest(r.new, "createdAt"), detail)


def _bytes(staging: Document) -> str:
    if staging["message"]:
        return f"{staging['uri']}: {staging['message']}"
    whole = f" of {staging['totalBytes']}" if staging["totalBytes"] else ""
    return f"{staging['uri']}: {staging['doneBytes']}{whole} bytes"


def _first_token(r: RolloutFacts) -> RolloutStage:
    found = _counted(r, StageName.FIRST_TOKEN, r.ready, "readyAt", "startedAt")
    if r.kind != CLUSTER or r.is_over or not found.is_over:
        return found
    why = r.service["tokenFault"]
    if why is None:
        return replace(found, state=StageState.SKIPPED, detail="its pods are ready; no token is asked for")
    return replace(found, state=StageState.ACTIVE, detail=why) if why else found


def _counted(r: RolloutFacts, name: StageName, there: Sequence[Document], key: str, since: str) -> RolloutStage:
    """Done once as many replicas are as far. A promoted version has been; what runs of it now may be younger."""
    if r.is_over or len(there) >= r.count:
        return RolloutStage(name, StageState.DONE, when_done(r, there, key))
    detail = f"{len(there)} of {r.count}" if there else ""
    missing = [one for one in r.new if one not in there]
    return RolloutStage(name, StageState.ACTIVE, earliest(missing, since), detail)


def when_done(r: RolloutFacts, there: Sequence[Document], key: str) -> str | None:
    """When the last of them was so far; None: not all are, or nobody knows."""
    times = [one[key] for one in there if key and one[key]]
    if not times or len(times) < r.count:
        return None
    done, promoted = max(times), r.promoted_at
    # A replica that was started again since then says nothing of the rollout.
    return None if r.is_over and promoted and done > promoted else str(done)


def _drained(r: RolloutFacts) -> RolloutStage:
    if not r.old:
        first = r.service["promoted"] is None
        return RolloutStage(StageName.DRAINED, StageState.SKIPPED if first else StageState.DONE)
    return RolloutStage(StageName.DRAINED, StageState.ACTIVE, earliest(r.old, "drainingAt"), left_of(r.old))


def left_of(old: Sequence[Document]) -> str:
    """How many are left, and the requests that still run there."""
    running = [one["inFlight"] for one in old if one["drainingAt"] and one["inFlight"]]
    requests = f"{counted(sum(running), 'request')} running" if running else ""
    return joined(f"{len(old)} left" if len(old) > 1 else "", requests)


def _promoted(r: RolloutFacts) -> RolloutStage:
    if r.is_over:
        return RolloutStage(StageName.PROMOTED, StageState.DONE, r.promoted_at)
    last = max((one["readyAt"] for one in r.switched), default=None)
    canary = r.service["canary"]
    detail = f"gets {canary['percent']}% of requests until git gives it all" if canary else ""
    return RolloutStage(StageName.PROMOTED, StageState.ACTIVE, last, detail)


# ---------------------------------------------------------------- where it stands


def as_it_stands(r: RolloutFacts, stage: RolloutStage) -> RolloutStage:
    """The stage whose turn it is: it goes on, or waits for what its detail says."""
    held = _held(r, stage)
    if held is None:
        return replace(stage, detail=joined(stage.detail, r.service["step"]))
    return replace(stage, state=StageState.WAITING, at=None, detail=joined(stage.detail, held))


def _held(r: RolloutFacts, stage: RolloutStage) -> str | None:
    """Why it does not go on by itself now; None: it does."""
    service = r.service
    if service["suspended"]:
        return "suspended"
    for reason in (*service["problems"], *([service["kept"]] if service["kept"] else []), *service["blocked"]):
        return str(reason["message"])
    if _awaits_room(service) or _awaits_retry(service):
        return str(service["step"])
    if r.kind == CLUSTER and stage.name is StageName.STAGED and service["phase"] == _SCHEDULING:
        return str(service["step"])
    if stage.name is StageName.PROMOTED and service["canary"]:
        return ""
    return None


def _awaits_room(service: Document) -> bool:
    """A way on which nothing is done but wait says so in both places."""
    step = service["step"]
    return bool(step) and (step == service["strategy"] or step.startswith("waiting for "))


def _awaits_retry(service: Document) -> bool:
    return service["lastFailure"] is not None and service["step"].endswith("tried again with backoff")
