"""A runtime's change, rolled out to the services that use it batch by batch, and stopped at the first that fails. Pure.

KServe rolls every service of a ServingRuntime at once when its spec changes. So before it is changed, its services are
kept on a copy of what it says now, under a name of its own: they name another runtime, and their pods stay as they are,
for nothing of a runtime's name reaches a pod. Then the runtime is changed, which moves nobody, and the services go back
to it, as git has them, a batch at a time. A copy is also what a service is kept on that falls back to its last good
version. The annotation `serving.kserve.io/disable-auto-update` would do less: KServe then looks away from all that
happens to the service, edits of its own spec included, and its status says nothing any more.

What it costs: a second object, while services are kept on it; and their spec in the cluster names the copy meanwhile.
Services that are not ours cannot be kept, nor those that cannot name a runtime, nor those over several nodes, whose
pods carry their generation: these roll at once, and the plan says so.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from reconciler.cluster.rollout.gpus import Amounts, shown
from reconciler.kserve import names
from reconciler.model import KubeObject, ObjectId, ServiceId
from reconciler.model.names import counted, listed

COPY_OF = "reconciler/copy-of"
"""Our label of a copy: the name of the runtime that it was made of."""
CLUSTER_RUNTIME = "ClusterServingRuntime"
_LONGEST_NAME = 63
_STATUS_FIELDS = {"ServingRuntime": "servingRuntimeName", CLUSTER_RUNTIME: "clusterServingRuntimeName"}


class Progress(StrEnum):
    """How far a service is with git's version of it."""

    DONE = "Done"  # it proved itself
    RUNNING = "Running"  # on its way, or not begun
    FAILED = "Failed"  # it failed, and is quarantined


@dataclass(frozen=True, slots=True)
class Dependant:
    """One service that runs with the runtime, or with a copy of it.

    `copy` is the copy that it names; empty: it names the runtime itself. `is_settled`: KServe has acted on that.
    `at_once` says why it cannot be kept on a copy; empty: it can. `is_ours`: git has it. `serves`: a pod of it is
    ready. `is_proven`: it has a last good version, to which it falls back. `devices` is what all of its pods request,
    and `way` what its strategy is.
    """

    service: ServiceId
    copy: str = ""
    is_settled: bool = True
    is_ours: bool = True
    at_once: str = ""
    serves: bool = True
    is_proven: bool = True
    progress: Progress = Progress.RUNNING
    devices: tuple[tuple[str, int], ...] = ()
    way: str = ""

    @property
    def can_be_kept(self) -> bool:
        return self.is_ours and not self.at_once


@dataclass(frozen=True, slots=True)
class BatchSettings:
    """How many services move at once: at `first`, as a test of the change, and `then`."""

    first: int = 1
    then: int = 5


@dataclass(frozen=True, slots=True)
class Batch:
    """What may happen now, in this order.

    `keep` are services to put on the copy, each as it was applied before. `change`: the runtime itself may be applied.
    `release` are services to apply as git has them. `waiting` are kept for a later batch. `stopped_by` are those that
    failed: nobody follows until git changes. `text` tells people of it.
    """

    keep: tuple[ServiceId, ...] = ()
    change: bool = False
    release: tuple[ServiceId, ...] = ()
    waiting: tuple[ServiceId, ...] = ()
    stopped_by: tuple[ServiceId, ...] = ()
    text: str = ""


NO_BATCH = Batch()


def next_batch(changed: bool, dependants: Sequence[Dependant], settings: BatchSettings) -> Batch:
    """What comes next for one runtime. `changed`: what git says of it is not in the cluster yet."""
    ordered = sorted(dependants, key=_first_to_move)
    return _prepared(ordered) if changed else _released(ordered, settings)


def _prepared(dependants: Sequence[Dependant]) -> Batch:
    """Nobody may move when the runtime changes, except who cannot be kept, or is alone."""
    if len(dependants) < 2 or not any(each.can_be_kept for each in dependants):
        return Batch(change=True, text=blast_radius(dependants))
    kept, free = _kept(dependants), [each for each in dependants if each.can_be_kept and not each.copy]
    if free:
        text = f"before the runtime changes, {_count(free)} of it are kept on a copy of what it says now"
        return Batch(keep=_ids(free), waiting=_ids(kept), text=text)
    unsettled = [each for each in kept if each.serves and not each.is_settled]
    if unsettled:
        return Batch(waiting=_ids(kept), text=f"waiting until KServe has moved {_named(unsettled)} to the copy")
    return Batch(change=True, waiting=_ids(kept), text=blast_radius(dependants))


def _released(dependants: Sequence[Dependant], settings: BatchSettings) -> Batch:
    ours = [each for each in dependants if each.is_ours and each.is_proven]
    failed = [each for each in ours if each.progress is Progress.FAILED]
    kept = [each for each in _kept(dependants) if each not in failed]
    if not kept:
        return NO_BATCH
    if failed:
        text = f"stopped: {_named(failed)} failed with the new runtime; {_count(kept)} stay on the old one"
        return Batch(waiting=_ids(kept), stopped_by=_ids(failed), text=text)
    moved = [each for each in ours if not each.copy]
    moving = [each for each in moved if each.progress is Progress.RUNNING]
    has_test = len(moving) < len(moved)
    release = [] if moving else kept[: settings.then if has_test else settings.first]
    waiting = [each for each in kept if each not in release]
    return Batch(release=_ids(release), waiting=_ids(waiting), text=_told(release, moving, waiting))


def _told(release: Sequence[Dependant], moving: Sequence[Dependant], waiting: Sequence[Dependant]) -> str:
    now = f"{_named(release)} get the new runtime" if release else f"waiting for {_named(moving)} with the new runtime"
    return f"{now}; {_count(waiting)} follow" if waiting else now


def _first_to_move(each: Dependant) -> tuple[bool, int, ServiceId]:
    """The test of a change is whoever has the least to lose by it; one that does not serve would prove nothing."""
    return not each.serves, sum(count for _, count in each.devices), each.service


def _kept(dependants: Iterable[Dependant]) -> list[Dependant]:
    return [each for each in dependants if each.copy]


# ---------------------------------------------------------------- copies


def copy_of(runtime: KubeObject) -> KubeObject:
    """The copy that keeps what a live runtime says now. No service comes to it unless it names it.

    It has no priority, which two runtimes may not share, and no display name, which has to mean one. KServe knows the
    server of some runtimes by their names: the copy says it.
    """
    metadata, spec = runtime["metadata"], runtime.get("spec") or {}
    annotations = dict(metadata.get("annotations") or {})
    server = annotations.get(names.SERVER_TYPE) or names.server_type_of(metadata["name"])
    kept: dict[str, Any] = {
        "name": copy_name(metadata["name"], spec),
        "labels": {COPY_OF: _label(metadata["name"])},
    }
    if metadata.get("namespace"):
        kept["namespace"] = metadata["namespace"]
    if server:
        kept["annotations"] = {names.SERVER_TYPE: server}
    formats = [_never_selected(each) for each in spec.get("supportedModelFormats") or ()]
    own = {**spec, "supportedModelFormats": formats} if formats else dict(spec)
    return {"apiVersion": runtime["apiVersion"], "kind": runtime["kind"], "metadata": kept, "spec": own}


def copy_name(runtime: str, spec: Mapping[str, Any]) -> str:
    """Equal specs, equal names: what was begun is found again."""
    text = json.dumps(spec, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{runtime[: _LONGEST_NAME - len(digest) - 1].rstrip('-.')}-{digest}"


def unused_copies(copies: Iterable[KubeObject], services: Iterable[KubeObject], kept: Iterable[str]) -> list[ObjectId]:
    """Copies that no service names or runs with, and that are not in `kept`: names that a fallback would need."""
    used = {*kept}
    for service in services:
        used |= {name for name in (named_runtime(service), *_running_with(service)) if name}
    return [ObjectId.of(each) for each in copies if each["metadata"]["name"] not in used]


def named_runtime(service: KubeObject) -> str:
    """The runtime that an InferenceService names; empty: none, so that KServe chooses."""
    predictor = (service.get("spec") or {}).get("predictor") or {}
    model = predictor.get("model") or {}
    return str(model.get("runtime") or "")


def why_at_once(service: KubeObject) -> str:
    """Why a service cannot be kept on a copy of its runtime; empty: it can."""
    predictor = (service.get("spec") or {}).get("predictor") or {}
    if "workerSpec" in predictor:
        return "over several nodes"
    return "" if "model" in predictor else "it has no predictor.model, which could name a runtime"


def uses(service: KubeObject, runtime: ObjectId, copies: Iterable[str]) -> bool:
    """Does a live service run with this runtime, or with one of these copies of it? What KServe says counts, and where
    it says nothing yet, what the service names."""
    if runtime.namespace and service["metadata"].get("namespace") != runtime.namespace:
        return False
    wanted = {runtime.name, *copies}
    said = (service.get("status") or {}).get(_STATUS_FIELDS[runtime.kind])
    return said in wanted or (not _running_with(service) and named_runtime(service) in wanted)


def is_settled(service: KubeObject) -> bool:
    """Does KServe run a service with the runtime that it names?"""
    return named_runtime(service) in ("", *_running_with(service))


def _running_with(service: KubeObject) -> list[str]:
    status = service.get("status") or {}
    return [status[field] for field in _STATUS_FIELDS.values() if status.get(field)]


def _never_selected(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**{key: value for key, value in entry.items() if key != "priority"}, "autoSelect": False}


def _label(name: str) -> str:
    return name[:_LONGEST_NAME].rstrip("-.")


# ---------------------------------------------------------------- what people read


def blast_radius(dependants: Sequence[Dependant]) -> str:
    """Whom a change of the runtime reaches: `12 services, 40 nvidia.com/gpu; at once: default/big (over several
    nodes)`."""
    if not dependants:
        return "no service uses it"
    held: Counter[str] = Counter()
    for each in dependants:
        held.update(dict(each.devices))
    devices: Amounts = {kind: count for kind, count in held.items() if count}
    whole = f"{_count(dependants)}, {shown(devices)}" if devices else _count(dependants)
    at_once = [each for each in dependants if not each.copy]
    if len(dependants) < 2 or not at_once:
        return whole
    return f"{whole}; at once: {', '.join(_why_at_once(at_once))}"


def _why_at_once(dependants: Iterable[Dependant]) -> Iterator[str]:
    for each in dependants:
        yield f"{each.service} ({each.at_once or ('alone' if each.is_ours else 'not in git')})"


def lines_of(dependants: Iterable[Dependant]) -> list[str]:
    """One line for each service of a runtime: what it holds, and how it will roll."""
    found = []
    for each in sorted(dependants, key=_first_to_move):
        parts = (shown(dict(each.devices)), each.way, "" if each.is_ours else "not in git")
        found.append(f"{each.service}: {'; '.join(filter(None, parts))}")
    return found


def _count(dependants: Sequence[Dependant]) -> str:
    return counted(len(dependants), "service")


def _named(dependants: Sequence[Dependant]) -> str:
    return listed([str(each.service) for each in dependants], 3)


def _ids(dependants: Iterable[Dependant]) -> tuple[ServiceId, ...]:
    return tuple(each.service for each in dependants)
