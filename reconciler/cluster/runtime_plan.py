"""Edits of runtimes: which services may follow one now, and which are kept on a copy of what it said before. Pure.

KServe rolls all services of a runtime as soon as it changes. What is done about that, and why: `rollout/batches.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from reconciler.cluster.objects.compare import Changed, Comparison, Drifted, TakeOver
from reconciler.cluster.objects.ignore import PART_OF
from reconciler.cluster.objects.owned import owned_fields
from reconciler.cluster.observed import NO_CHILDREN, RUNTIMES, SERVICE, ClusterObserved
from reconciler.cluster.rollout.batches import (
    COPY_OF,
    Batch,
    BatchSettings,
    Dependant,
    Progress,
    copy_of,
    is_settled,
    named_runtime,
    next_batch,
    unused_copies,
    uses,
    why_at_once,
)
from reconciler.cluster.rollout.gpus import is_accelerator, is_holding, requests_of
from reconciler.cluster.rollout.last_good import ServiceRecord
from reconciler.fault_isolation import Faults
from reconciler.kserve.names import GROUP
from reconciler.model import (
    NO_ORIGIN,
    DeleteObject,
    Desired,
    DesiredObject,
    DesiredState,
    Holds,
    KubeObject,
    NoOrigin,
    ObjectId,
    Origin,
    Reason,
    ReasonCode,
    ServiceId,
)


@dataclass(frozen=True, slots=True)
class RuntimeStep:
    """What happens to one runtime now. `copy` keeps what it says: it is there, or has to be applied first."""

    runtime: ObjectId
    batch: Batch
    copy: KubeObject | None
    origin: Origin | NoOrigin


@dataclass(frozen=True, slots=True)
class RuntimePlan:
    """`kept` are services that stay on a copy, or go to it: the name of it, and why. `withheld` are runtimes that are
    not applied yet, and why. `copies` are to be applied, `deletes` are copies that nothing needs any more. `odd`
    are runtimes that make us raise, and why they stay as they are."""

    kept: Mapping[ServiceId, tuple[str, Reason]] = field(default_factory=dict)
    withheld: Mapping[ObjectId, Reason] = field(default_factory=dict)
    copies: tuple[KubeObject, ...] = ()
    deletes: tuple[DeleteObject, ...] = ()
    texts: Mapping[ObjectId, str] = field(default_factory=dict)
    odd: Mapping[ObjectId, Reason] = field(default_factory=dict)


def plan_runtimes(
    desired: DesiredState,
    seen: ClusterObserved,
    holds: Holds,
    compare: Callable[[DesiredObject], Comparison],
    settings: BatchSettings,
    faults: Faults,
) -> RuntimePlan:
    """For each runtime of git whose services run: what comes next. One that makes us raise stays as it is, and its
    services where they are."""
    ours = {one: seen.live[one] for one in seen.live if one.group == GROUP}
    copies = _copies(ours, seen)
    services = {one.id: one for one in desired.services}
    live = [body for one, body in ours.items() if (one.group, one.kind) == SERVICE] if copies or services else []
    steps, odd = [], {}
    for one in seen.wanted:
        if (one.id.group, one.id.kind) in RUNTIMES and (body := seen.live.get(one.id)) is not None:
            own = {copy.name for copy, each in copies.items() if _is_copy_of(each, one.id)}
            try:
                step = _step(one, body, own, live, services, seen, holds, compare(one), settings)
            except Exception as error:
                odd[one.id] = faults.note_other(f"planning who uses {one.id}", error, one.origin)
                steps.append(_left_alone(one, own, live, odd[one.id]))
                continue
            if step is not None:
                steps.append(step)
    return _joined(steps, copies.values(), live, odd)


def _left_alone(wanted: DesiredObject, copies: set[str], services: Iterable[KubeObject], why: Reason) -> RuntimeStep:
    """Nobody moves from a copy of it, or to one."""
    on_copies = (body["metadata"] for body in services if named_runtime(body) in copies)
    staying = tuple(ServiceId(metadata["namespace"], metadata["name"]) for metadata in on_copies)
    return RuntimeStep(wanted.id, Batch(waiting=staying, text=why.message), None, wanted.origin)


def _copies(live: Mapping[ObjectId, KubeObject], seen: ClusterObserved) -> dict[ObjectId, KubeObject]:
    """Those that we made: others may write our label, and another target has copies of its own."""
    git = {one.id for one in seen.wanted}
    found = {}
    for one, body in live.items():
        if (one.group, one.kind) in RUNTIMES and one not in git:
            labels = body["metadata"].get("labels") or {}
            is_ours = labels.get(PART_OF) == seen.inventory.applyset and owned_fields(body) is not None
            if COPY_OF in labels and is_ours:
                found[one] = body
    return found


def _is_copy_of(copy: KubeObject, runtime: ObjectId) -> bool:
    metadata = copy["metadata"]
    labels = metadata.get("labels") or {}
    same_place = copy["kind"] == runtime.kind and (metadata.get("namespace") or "") == runtime.namespace
    return bool(same_place and labels.get(COPY_OF) == runtime.name[:63].rstrip("-."))


def _step(
    wanted: DesiredObject,
    live: KubeObject,
    copies: set[str],
    services: Iterable[KubeObject],
    desired: Mapping[ServiceId, Desired],
    seen: ClusterObserved,
    holds: Holds,
    found: Comparison,
    settings: BatchSettings,
) -> RuntimeStep | None:
    """None: nothing of it changes, and nothing is kept on a copy of it."""
    changed = isinstance(found, Changed | Drifted | TakeOver) and _changes_spec(found)
    if not changed and not copies:
        return None
    using = [body for body in services if uses(body, wanted.id, copies)]
    dependants = [_dependant(body, copies, desired, seen, holds) for body in using]
    batch = next_batch(changed, dependants, settings)
    return RuntimeStep(wanted.id, batch, copy_of(live) if batch.keep else None, wanted.origin)


def _changes_spec(found: Changed | Drifted | TakeOver) -> bool:
    return any(each.path.startswith("spec") for each in found.changes)


def _dependant(
    body: KubeObject,
    copies: set[str],
    desired: Mapping[ServiceId, Desired],
    seen: ClusterObserved,
    holds: Holds,
) -> Dependant:
    metadata = body["metadata"]
    service = ServiceId(metadata["namespace"], metadata["name"])
    wanted, record = desired.get(service), seen.records.get(service) or ServiceRecord(service)
    health, name = seen.health.get(service), named_runtime(body)
    at_once = why_at_once(body) or ("" if record.last_good else "no version of it has proved itself")
    return Dependant(
        service=service,
        copy=name if name in copies else "",
        is_settled=is_settled(body),
        is_ours=wanted is not None and not wanted.problems and not holds.suspends(service),
        at_once=at_once,
        serves=bool(health and health.serving),
        is_proven=record.last_good is not None,
        progress=_progress(service, wanted, record, holds),
        devices=_devices(service, seen),
    )


def _progress(service: ServiceId, wanted: Desired | None, record: ServiceRecord, holds: Holds) -> Progress:
    if wanted is None:
        return Progress.RUNNING
    if (service, wanted.digest) in holds.quarantines:
        return Progress.FAILED
    return Progress.DONE if record.is_proven(wanted.digest) else Progress.RUNNING


def _devices(service: ServiceId, seen: ClusterObserved) -> tuple[tuple[str, int], ...]:
    held: dict[str, int] = {}
    for pod in seen.children.get(service, NO_CHILDREN).pods:
        for kind, count in requests_of(pod["spec"]).items() if is_holding(pod) else ():
            if is_accelerator(kind):
                held[kind] = held.get(kind, 0) + count
    return tuple(sorted(held.items()))


def _joined(
    steps: Iterable[RuntimeStep],
    copies: Iterable[KubeObject],
    services: Iterable[KubeObject],
    odd: Mapping[ObjectId, Reason],
) -> RuntimePlan:
    kept: dict[ServiceId, tuple[str, Reason]] = {}
    withheld: dict[ObjectId, Reason] = {}
    made, texts = [], {}
    live = {(str(b["metadata"]["namespace"]), str(b["metadata"]["name"])): b for b in services}
    for step in steps:
        why = Reason(ReasonCode.RUNTIME_BATCH, step.batch.text, step.origin)
        texts[step.runtime] = step.batch.text
        if step.copy is not None:
            made.append(step.copy)
            kept |= {one: (str(step.copy["metadata"]["name"]), why) for one in step.batch.keep}
        for one in step.batch.waiting:
            body = live.get((one.namespace, one.name))
            if one not in kept and body is not None:
                kept[one] = (named_runtime(body), why)
        if step.batch.keep or (step.batch.waiting and not step.batch.change and not step.batch.release):
            withheld[step.runtime] = why
    going = unused_copies(copies, live.values(), [name for name, _ in kept.values()])
    uids = {ObjectId.of(each): str(each["metadata"]["uid"]) for each in copies}
    deletes = tuple(
        DeleteObject(one, uids[one], "no service is kept on this copy of its runtime any more") for one in going
    )
    return RuntimePlan(kept, withheld, tuple(made), deletes, texts, odd)


def as_object(copy: KubeObject, origin: Origin | NoOrigin = NO_ORIGIN) -> DesiredObject:
    """A copy as it is applied."""
    one = ObjectId.of(copy)
    return DesiredObject(one, origin or Origin("", 1), copy, str(copy["metadata"]["name"]))
