"""Which stages a service's line has, in which order, and which of them goes on now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from reconciler.model import HealthStatus
from reconciler.report.stages.failure import failed_stages
from reconciler.report.stages.progress import as_it_stands, left_of, stage_of, when_done
from reconciler.report.stages.rollout import RolloutFacts, rollout_of
from reconciler.report.stages.stage import CLUSTER, RolloutStage, StageName, StageState, earliest, joined, names_of
from reconciler.report.status_parts import Document


def stages_document(service: Document, kind: str) -> list[Document]:
    """The stages of one service of a target of this kind, in their order; none where nothing is to roll out."""
    return [each.document for each in _stages(service, kind)]


def _stages(service: Document, kind: str) -> Sequence[RolloutStage]:
    if service["health"]["status"] == HealthStatus.UNKNOWN and not service["replicas"]:
        return [RolloutStage(name, StageState.UNKNOWN) for name in names_of(kind)]
    if _is_leaving(service):
        return _leaving(service)
    rollout = rollout_of(service, kind)
    if rollout is None:
        return ()
    if service["rejected"]:
        return list(failed_stages(rollout))
    return _settled(rollout) if rollout.old or not rollout.is_over else _finished(rollout)


def _is_leaving(service: Document) -> bool:
    if service["kept"] or service["suspended"]:
        return False
    return not service["inGit"] or service["health"]["status"] == HealthStatus.SUSPENDED


def _leaving(service: Document) -> list[RolloutStage]:
    there = service["replicas"]
    if not there:
        return []
    detail = joined(left_of(there), service["step"])
    return [RolloutStage(StageName.DRAINED, StageState.ACTIVE, earliest(there, "drainingAt"), detail)]


def _finished(r: RolloutFacts) -> list[RolloutStage]:
    """What is so of most services at most times."""
    times = {
        StageName.STARTED: when_done(r, r.started, "startedAt"),
        StageName.FIRST_TOKEN: when_done(r, r.ready, "readyAt"),
        StageName.PROMOTED: r.promoted_at,
    }
    drained = StageState.DONE if r.service["promoted"] else StageState.SKIPPED
    states = {StageName.DRAINED: drained}
    return [RolloutStage(name, states.get(name, StageState.DONE), times.get(name)) for name in names_of(r.kind)]


def _settled(r: RolloutFacts) -> list[RolloutStage]:
    """The first stage that is not over goes on or is held up; the others are over, or to come."""
    found = [stage_of(r, name) for name in _order(r)]
    first = next((number for number, one in enumerate(found) if not one.is_over), len(found))
    later = (one if one.is_over else replace(one, state=StageState.WAITING, at=None) for one in found[first + 1 :])
    return [*found[:first], *(as_it_stands(r, one) for one in found[first : first + 1]), *later]


# ---------------------------------------------------------------- their order


def _order(r: RolloutFacts) -> Sequence[StageName]:
    names: list[StageName] = [name for name in names_of(r.kind) if name is not StageName.DRAINED]
    if r.stays:
        return [name for name in names if name is not StageName.PROMOTED]
    before = _drained_before(r)
    place = names.index(before) if before else len(names)
    return [*names[:place], StageName.DRAINED, *names[place:]]


def _drained_before(r: RolloutFacts) -> StageName | None:
    """The stage that old replicas are gone before; None: they go at last."""
    if r.is_over:
        return None
    at_last = StageName.PROMOTED if r.kind == CLUSTER else None
    if r.old:
        return _room_is_for(r) if _makes_room(r) else at_last
    has_changed_over = r.kind == CLUSTER and len(r.switched) >= r.count
    return at_last if has_changed_over or r.service["promoted"] is None else _room_is_for(r)


def _room_is_for(r: RolloutFacts) -> StageName:
    """On a host files are there before anything is drained; on a cluster a pod fetches them."""
    return StageName.STAGED if r.kind == CLUSTER else StageName.STARTED


def _makes_room(r: RolloutFacts) -> bool:
    """Once the last old replica drains, nobody says any more by which strategy that is."""
    all_drain = not r.new and all(one["drainingAt"] for one in r.old)
    return len(r.started) < r.count and (all_drain or _makes_room_first(r.service["strategy"]))


def _makes_room_first(strategy: str) -> bool:
    return strategy.startswith(("stop-first:", "Recreate")) or "maxSurge 0" in strategy
