"""Deletions on a host: which services would go, and which of them the guard holds. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from reconciler.fault_isolation import Faults
from reconciler.host.rollout.context import ServiceContext
from reconciler.host.rollout.inputs import Inputs
from reconciler.model import NO_ORIGIN, Deletion, JudgedDeletions, NoOrigin, Origin
from reconciler.model.approvals import judge


def judge_deletions(contexts: Sequence[ServiceContext], given: Inputs) -> JudgedDeletions:
    """What is to be deleted, and what of it is held. What is taken out of the config goes by the operator's own hand.

    A service is deleted when git does not name it any more, and when it names it for other hosts only.
    """
    if given.desired.leaving:
        return JudgedDeletions()
    here = [s for s in contexts if s.replicas or s.owned]
    deletions = [each for s in here if (each := _deletion(s, given.faults)) is not None]
    return judge(deletions, len(here), given.holds.deletions)


def _deletion(s: ServiceContext, faults: Faults) -> Deletion | None:
    """None: it stays, or it is left alone because it makes us raise."""
    try:
        return Deletion(str(s.id), gpus=_gpus(s)) if _goes(s) and s.id not in faults.reasons else None
    except Exception as error:
        faults.note(s.id, error, _origin(s))
        return None


def _goes(s: ServiceContext) -> bool:
    return (s.desired is None or bool(s.desired.not_here)) and s.kept is None


def _gpus(s: ServiceContext) -> int:
    """Whole GPUs and parts of GPUs that it leases now; while nothing of it runs, those that it would lease."""
    leased = {gpu for replica in s.replicas for gpu in replica.lease.gpus}
    if leased or s.promoted is None:
        return len(leased)
    return s.promoted.replicas * s.promoted.spec.resources.gpu_devices


def with_held(contexts: Sequence[ServiceContext], judged: JudgedDeletions) -> list[ServiceContext]:
    """The same, with a reason to keep for each service whose deletion is held."""
    if judged.held is None:
        return list(contexts)
    held = {each.subject for each in judged.held.deletions}
    return [
        replace(s, keep=judged.held.why_kept(_origin(s))) if str(s.id) in held and _goes(s) else s for s in contexts
    ]


def _origin(s: ServiceContext) -> Origin | NoOrigin:
    """The line that named it last."""
    return s.owned.origin if s.owned else s.replicas[-1].origin if s.replicas else NO_ORIGIN
