"""What a comparison of one object means: what is said of it, and what is applied. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from reconciler.cluster.objects.compare import (
    Applied,
    Changed,
    Comparison,
    Drifted,
    InSync,
    Missing,
    TakeOver,
    Terminating,
    Unconfirmed,
)
from reconciler.cluster.objects.differences import FieldChange
from reconciler.cluster.objects.options import Options
from reconciler.model import (
    Action,
    ApplyObject,
    DesiredObject,
    Health,
    HealthStatus,
    KubeObject,
    NoOrigin,
    ObjectChange,
    ObjectId,
    ObjectPlan,
    Origin,
    Reason,
    ReasonCode,
    ServiceId,
    ServicePlan,
    Sync,
)

_LONGEST_LIST = 50


@dataclass(slots=True)
class Decided:
    """What was decided of one object."""

    said: ObjectPlan
    actions: tuple[Action, ...] = ()
    verdict: ServicePlan | None = None
    look_again_at: float | None = None
    applied: Applied | None = None
    copy: KubeObject | None = None


def left_alone(
    one: ObjectId, origin: Origin | NoOrigin, service: ServiceId | None, change: ObjectChange, why: Reason
) -> Decided:
    """Nothing is done to it: git says so (NONE), it has to wait (WAIT), or it must stay (KEEP)."""
    is_told, is_waiting = change is not ObjectChange.NONE, change is ObjectChange.WAIT
    sync = Sync.UNKNOWN if is_told else Sync.SYNCED
    phase = HealthStatus.PROGRESSING if is_waiting else HealthStatus.UNKNOWN
    health = Health(phase if is_told else HealthStatus.SUSPENDED, why)
    reasons = (why,) if is_told and not is_waiting else ()
    said = ObjectPlan(one, sync, health, change, origin, why.message, reasons=reasons, service=service)
    if service is None:
        return Decided(said)
    return Decided(said, verdict=ServicePlan(service, sync, health, step=why.message, kept=why if reasons else None))


def said_of(wanted: DesiredObject, found: Comparison, options: Options, health: Health) -> ObjectPlan:
    change, why, changes = _told(found)
    reasons = _conflicts(wanted, found) if not options.force_conflicts else ()
    sync = Sync.SYNCED if isinstance(found, InSync) else Sync.OUT_OF_SYNC
    lines = tuple(_line(each) for each in changes[:_LONGEST_LIST])
    if len(changes) > _LONGEST_LIST:
        lines = (*lines, f"and {len(changes) - _LONGEST_LIST} more")
    return ObjectPlan(wanted.id, sync, health, change, wanted.origin, why, lines, reasons, wanted.service)


def _told(found: Comparison) -> tuple[ObjectChange, str, tuple[FieldChange, ...]]:
    match found:
        case Missing():
            return ObjectChange.CREATE, "new in git", ()
        case InSync():
            return ObjectChange.NONE, "", ()
        case Unconfirmed():
            return ObjectChange.CHANGE, "no field differs; one apply makes sure that all of it is ours", ()
        case Changed(changes):
            return ObjectChange.CHANGE, f"git changed {_fields(changes)}", changes
        case Drifted(changes):
            who = ", ".join(sorted({each.manager for each in changes if each.manager})) or "somebody"
            return ObjectChange.REPAIR, f"{who} changed {_fields(changes)}; git's values are restored", changes
        case TakeOver(owners, changes):
            whose = ", ".join(owners)
            return ObjectChange.TAKE_OVER, f"it exists, and is of {whose}: from now on it follows git", changes
        case Terminating(since, finalizers):
            held = f"; it waits for {', '.join(finalizers)}" if finalizers else ""
            return ObjectChange.WAIT, f"it is being deleted since {since}{held}; once it is gone it is made again", ()


def _fields(changes: tuple[FieldChange, ...]) -> str:
    if not changes:
        return "how it is written"
    first = changes[0].path
    return first if len(changes) == 1 else f"{first} and {len(changes) - 1} more fields"


def _line(change: FieldChange) -> str:
    return f"{change.path}: {_value(change.before)} → {_value(change.after)}"


def _value(value: object) -> str:
    text = "(none)" if value is None else str(value)
    return text if len(text) <= 200 else f"{text[:200]}…"


def _conflicts(wanted: DesiredObject, found: Comparison) -> tuple[Reason, ...]:
    """What the API server would refuse: fields that others apply."""
    if not isinstance(found, Changed | Drifted | TakeOver):
        return ()
    if isinstance(found, Drifted) and found.force:
        return ()
    return tuple(
        Reason(
            ReasonCode.FIELD_CONFLICT,
            f"{each.path} belongs to {each.manager}, which sets it to {_value(each.before)}; leave the field to one of "
            f'both, or take it over by the annotation reconciler/force-conflicts: "true"',
            wanted.origin_of(each.path),
        )
        for each in found.changes
        if each.manager and each.applies
    )


def apply_action(
    wanted: DesiredObject,
    found: Comparison,
    options: Options,
    wave: int,
    why: str,
) -> ApplyObject | None:
    if isinstance(found, InSync | Terminating):
        return None
    takes = (isinstance(found, Drifted) and found.force) or _takes_from_editors(found)
    return ApplyObject(wanted, why, options.force_conflicts or bool(takes), wave)


def _takes_from_editors(found: Comparison) -> bool:
    """Values that were set by hand or by a tool that does not apply belong to git; nobody claims them for good."""
    return isinstance(found, Changed | TakeOver) and any(each.manager for each in found.changes)
