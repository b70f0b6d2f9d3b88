"""What is ours and not in git any more: deleted, where nothing speaks against it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from reconciler.cluster.object_plan import Decided, left_alone
from reconciler.cluster.objects import prune as objects
from reconciler.cluster.objects.inventory import ClusterInventory, Member
from reconciler.cluster.objects.options import options_of
from reconciler.cluster.objects.order import Ordered, deletion_order
from reconciler.cluster.observed import NO_CHILDREN, SERVICE, ClusterObserved
from reconciler.cluster.rollout.deletion import (
    AwaitFinalizers,
    AwaitPods,
    Deleted,
    DeleteService,
    Leaving,
    SetStopAnnotation,
    Step,
    next_step,
)
from reconciler.cluster.service_facts import held_gpus
from reconciler.fault_isolation import Faults
from reconciler.model import (
    NO_ORIGIN,
    Action,
    DeleteObject,
    DesiredObject,
    DesiredState,
    Health,
    HealthStatus,
    Holds,
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
    StopService,
    Sync,
    host_reason,
    progress,
)
from reconciler.model.approvals import JudgedDeletions, judge
from reconciler.model.guard import Deletion

_RUNNING = (("apps", "Deployment"), ("apps", "ReplicaSet"), ("", "Pod"))


@dataclass(slots=True)
class PrunePlan:
    """`gone` are members of which nothing is left, with the UID that they had."""

    actions: tuple[Action, ...] = ()
    objects: Mapping[ObjectId, ObjectPlan] = field(default_factory=dict)
    verdicts: Mapping[ServiceId, ServicePlan] = field(default_factory=dict)
    gone: Mapping[ObjectId, str] = field(default_factory=dict)
    deletions: JudgedDeletions = field(default_factory=JudgedDeletions)
    look_again_at: float | None = None


def prune(desired: DesiredState, seen: ClusterObserved, holds: Holds, faults: Faults) -> PrunePlan:
    """The next step of everything that goes. What a person suspended, what the guard holds, and what makes us raise,
    stays."""
    members = seen.inventory.members
    # Which namespace an object of git has is not known while its kind is not: it may be that of the member.
    named = {(one.id.group, one.id.kind, one.id.name) for one in seen.wanted}
    unplaced = {(one.id.group, one.id.kind, one.id.name) for one in seen.wanted if not one.id.namespace}
    live = {
        one: seen.live.get(one)
        for one in members
        if (one.group, one.kind) not in seen.unknown
        and (one.group, one.kind, one.name) not in (unplaced if one.namespace else named)
    }
    around = objects.PruneContext(live)
    found, odd = _found(seen.inventory, replace(desired, objects=seen.wanted), around, faults)
    kept = odd | dict(found.kept) | {one: _unseen(one) for one in found.unknown}
    kept |= {one: why for one in found.ending if seen.live.get(one) and (why := _odd(one, seen, faults))}
    going = {}
    for each in found.delete:
        service = service_of(each.id)
        if holds.suspends_everything or (service is not None and holds.suspends(service)):
            kept[each.id] = host_reason(ReasonCode.SUSPENDED, "suspended manually; `reconciler resume` resumes it")
        elif why := _odd(each.id, seen, faults) or _pods_unseen(service, seen):
            kept[each.id] = why
        else:
            going[each.id] = each.uid
    judged = judge_deletions(going, seen, holds)
    if judged.held is not None:
        held = {each.key for each in judged.held.deletions}
        for one in (one for one, uid in going.items() if (str(one), uid) in held):
            kept[one] = judged.held.why_kept(_origin(seen.inventory.members[one]))
    steps = {one: _step(one, seen) for one in (*going, *found.ending) if one not in kept and seen.live.get(one)}
    later = _later(steps, seen)
    # Of what git has but cannot be used, its own verdict says why it stays.
    unusable = {one.id for one in desired.services}
    shown = {
        one: why for one, why in kept.items() if seen.live.get(one) is not None and service_of(one) not in unusable
    }
    told = [_kept(one, seen, why) for one, why in shown.items()]
    git = {one.id for one in seen.wanted}
    told += [
        left_alone(one, _origin(members[one]), service_of(one), *why_not)
        for one in sorted(members.keys() - git)
        if (why_not := seen.unseen(one)) is not None and service_of(one) not in unusable
    ]
    told += [_going(one, seen, step, later.get(one)) for one, step in sorted(steps.items())]
    looks = [each.look_again_at for each in told if each.look_again_at is not None]
    return PrunePlan(
        actions=tuple(action for each in told for action in each.actions),
        objects={each.said.object: each.said for each in told},
        verdicts={each.verdict.service: each.verdict for each in told if each.verdict is not None},
        gone={**found.gone, **found.replaced},
        deletions=judged,
        look_again_at=min(looks, default=None),
    )


def _found(
    inventory: ClusterInventory, desired: DesiredState, around: objects.PruneContext, faults: Faults
) -> tuple[objects.Pruning, dict[ObjectId, Reason]]:
    """What becomes of members that git does not have, and those at which a bug shows: only if one does are they looked
    at one by one."""
    try:
        return objects.prune(inventory, desired, around), {}
    except Exception:
        odd = {}
    for one, member in sorted(inventory.members.items()):
        try:
            objects.prune(replace(inventory, members={one: member}), desired, around)
        except Exception as error:
            odd[one] = faults.note_other(f"planning {one}", error, _origin(member))
    others = {one: member for one, member in inventory.members.items() if one not in odd}
    return objects.prune(replace(inventory, members=others), desired, around), odd


def _odd(one: ObjectId, seen: ClusterObserved, faults: Faults) -> Reason | None:
    """A bug that shows when this object is looked at."""
    try:
        _gpus_of(one, seen), _step(one, seen), _ordered(one, seen)
    except Exception as error:
        return faults.note_other(f"planning {one}", error, _origin(seen.inventory.members[one]))
    return None


def _unseen(one: ObjectId) -> Reason:
    text = f"kept: it is not known what is in {one}, and would go with it; delete it yourself"
    return host_reason(ReasonCode.IN_USE, text)


def judge_deletions(going: Mapping[ObjectId, str], seen: ClusterObserved, holds: Holds) -> JudgedDeletions:
    """What of them the guard holds."""
    deletions = [Deletion(str(one), uid, _gpus_of(one, seen)) for one, uid in going.items()]
    return judge(deletions, len(seen.inventory.members), holds.deletions)


def _gpus_of(one: ObjectId, seen: ClusterObserved) -> int:
    return held_gpus(_pods(one, seen))


def _pods(one: ObjectId, seen: ClusterObserved) -> tuple[KubeObject, ...]:
    service = service_of(one)
    return seen.children.get(service, NO_CHILDREN).pods if service else ()


def service_of(one: ObjectId) -> ServiceId | None:
    """The service that an object is."""
    return ServiceId(one.namespace, one.name) if (one.group, one.kind) == SERVICE else None


def _pods_unseen(service: ServiceId | None, seen: ClusterObserved) -> Reason | None:
    """What runs for a service may not be seen: then nobody can say whether it has drained."""
    why = next((seen.unknown[kind] for kind in _RUNNING if kind in seen.unknown), None)
    if service is None or why is None:
        return None
    return host_reason(ReasonCode.TARGET_UNREACHABLE, f"kept, because its pods cannot be seen: {why}")


def _step(one: ObjectId, seen: ClusterObserved) -> Step:
    live = seen.live[one]
    return next_step(Leaving(live, _pods(one, seen), live["metadata"]["uid"], seen.clock))


def _later(steps: Mapping[ObjectId, Step], seen: ClusterObserved) -> dict[ObjectId, ObjectId]:
    """What is not to be deleted yet, and what must be gone before it: a Secret stays while its service drains. What
    others do not let go of in time holds up nothing."""
    counted = [one for one, step in steps.items() if not (isinstance(step, AwaitFinalizers) and step.late)]
    order = deletion_order(_ordered(one, seen) for one in counted)
    return {one: order[0][0] for group in order[1:] for one in group}


def _ordered(one: ObjectId, seen: ClusterObserved) -> Ordered:
    """As its annotations say on the cluster: git says nothing of it any more."""
    said = options_of(DesiredObject(one, Origin("", 1), seen.live[one], ""))
    return Ordered(one, said.wave, said.depends_on)


def _kept(one: ObjectId, seen: ClusterObserved, why: Reason) -> Decided:
    origin, service = _origin(seen.inventory.members[one]), service_of(one)
    is_suspended = why.code is ReasonCode.SUSPENDED
    health = Health(HealthStatus.SUSPENDED if is_suspended else HealthStatus.UNKNOWN, why)
    sync = Sync.UNKNOWN if is_suspended else Sync.OUT_OF_SYNC
    said = ObjectPlan(one, sync, health, ObjectChange.KEEP, origin, why.message, (), (why,), service)
    return Decided(said, verdict=_verdict(said, service, why))


def _going(one: ObjectId, seen: ClusterObserved, step: Step, before: ObjectId | None) -> Decided:
    origin, service = _origin(seen.inventory.members[one]), service_of(one)
    reason = step.reason if not isinstance(step, Deleted) else "deleted in git"
    action, again = _next(one, step, service)
    if before is not None:
        reason, action, again = f"deleted in git; it goes once {before} is gone", None, None
    health = Health(HealthStatus.PROGRESSING, progress(ReasonCode.DELETING, reason))
    said = ObjectPlan(one, Sync.OUT_OF_SYNC, health, ObjectChange.DELETE, origin, reason, service=service)
    return Decided(said, (action,) if action else (), _verdict(said, service, None), again)


def _origin(member: Member) -> Origin | NoOrigin:
    return Origin(member.file, 1) if member.file else NO_ORIGIN


def _next(one: ObjectId, step: Step, service: ServiceId | None) -> tuple[Action | None, float | None]:
    match step:
        case SetStopAnnotation(reason=reason, uid=uid) if service is not None:
            return StopService(service, one, uid, reason), None
        case SetStopAnnotation(reason=reason, uid=uid) | DeleteService(reason=reason, uid=uid):
            return DeleteObject(one, uid, reason, service), None
        case AwaitPods(until=until) | AwaitFinalizers(until=until):
            return None, until
        case Deleted():
            return None, None


def _verdict(said: ObjectPlan, service: ServiceId | None, why: Reason | None) -> ServicePlan | None:
    if service is None:
        return None
    return ServicePlan(service, said.sync, said.health, step=said.why, kept=why)
