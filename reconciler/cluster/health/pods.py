"""One pod → how far it has come, and what keeps it there. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from reconciler.cluster.health.children import subject_of
from reconciler.cluster.health.fields import (
    NO_CONDITION,
    Condition,
    conditions,
    count,
    mapping,
    mappings,
    name_of,
    shortened,
    text,
    time,
)
from reconciler.cluster.health.problems import Fault, HealthLimits, Phase, Problem
from reconciler.engines.last_words import fatal_reason
from reconciler.kserve.names import STORAGE_INITIALIZER
from reconciler.model import ReasonCode
from reconciler.model.crash_signs import blames_host, is_crowded_out
from reconciler.model.objects import KubeObject

Logs = Mapping[str, Sequence[str]]
"""The last lines that a pod's failed container wrote, by the pod's name."""

CRASH_WINDOW = 600.0
CRASHES_THAT_DEGRADE = 3
_LACKS = re.compile(r"Insufficient ([\w./-]*\w)")
_LACK_CODES = {
    "cpu": ReasonCode.INSUFFICIENT_CPU,
    "memory": ReasonCode.INSUFFICIENT_MEMORY,
}
_IMAGE_REASONS = frozenset({"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "RegistryUnavailable"})
_NO_SUCH_IMAGE = re.compile(r"not found|manifest unknown|name unknown|invalid reference format", re.IGNORECASE)
_NO_SUCH_PROGRAM = re.compile(r"executable file not found|no such file or directory|permission denied", re.IGNORECASE)
_BEFORE_CREATION = frozenset({"", "ContainerCreating", "PodInitializing"})
# Reasons of events that say why a pod's containers are not created yet.
_HELD_UP = frozenset({"FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox"})


@dataclass(frozen=True, slots=True)
class PodState:
    """How far a pod has come. `since` is when it came there, or last made progress; `due` when that is too long ago.

    `serves`: it answers requests. `crashes` is how often its containers ended with an error.
    """

    name: str
    phase: Phase
    serves: bool = False
    since: float | None = None
    due: float | None = None
    problem: Problem | None = None
    crashes: int = 0


@dataclass(frozen=True, slots=True)
class PodContext:
    """What else is known of a service's pods. Events are by the pod's name, in the order in which they were."""

    now: float
    limits: HealthLimits
    events: Mapping[str, Sequence[KubeObject]] = field(default_factory=dict)
    logs: Logs = field(default_factory=dict)

    @classmethod
    def of(cls, events: Iterable[KubeObject], logs: Logs, now: float, limits: HealthLimits) -> PodContext:
        """Finds the pod that each event is about. Raises OddField."""
        found: dict[str, list[KubeObject]] = {}
        for event in events:
            about = subject_of(event)
            if text(about, "kind") == "Pod":
                found.setdefault(text(about, "name"), []).append(event)
        return cls(now, limits, {pod: sorted(told, key=event_time) for pod, told in found.items()}, logs)

    def last(self, pod: str, reasons: Iterable[str]) -> KubeObject:
        """The last event about a pod that has one of these reasons, or an empty one. Raises OddField."""
        wanted = frozenset(reasons)
        return next((each for each in reversed(self.events.get(pod, ())) if text(each, "reason") in wanted), {})


def event_time(event: KubeObject) -> float:
    """When it was said last, 0 where that is not known. Raises OddField."""
    series = time(event, "series", "lastObservedTime")
    return series or time(event, "lastTimestamp") or time(event, "eventTime") or time(event, "firstTimestamp") or 0.0


def is_leaving(pod: KubeObject) -> bool:
    """It is being deleted, or has ended: it is no replica any more. Raises OddField."""
    return time(pod, "metadata", "deletionTimestamp") is not None or has_ended(pod)


def has_ended(pod: KubeObject) -> bool:
    """Its containers are gone for good, as after an eviction. Raises OddField."""
    return text(pod, "status", "phase") in ("Failed", "Succeeded")


def pod_state(pod: KubeObject, context: PodContext) -> PodState:
    """The state of a pod that is not leaving. Raises OddField."""
    known = conditions(pod)
    ready = known.get("Ready", NO_CONDITION)
    crashes = sum(_crashes(each) for each in _statuses(pod))
    if ready.is_true:
        crash = _first_problem(pod, context) if crashes else None
        return PodState(name_of(pod), Phase.READY, serves=True, since=ready.at, problem=crash, crashes=crashes)
    scheduled = known.get("PodScheduled", NO_CONDITION)
    if scheduled.is_false or not _is_placed(pod, scheduled):
        return _unscheduled(pod, scheduled, context)
    return _placed(pod, scheduled, ready, context, crashes)


def _is_placed(pod: KubeObject, scheduled: Condition) -> bool:
    return scheduled.is_true or bool(text(pod, "spec", "nodeName") or _statuses(pod))


def _statuses(pod: KubeObject) -> tuple[KubeObject, ...]:
    return (*mappings(pod, "status", "initContainerStatuses"), *mappings(pod, "status", "containerStatuses"))


def _unscheduled(pod: KubeObject, scheduled: Condition, context: PodContext) -> PodState:
    name, since, limit = name_of(pod), time(pod, "metadata", "creationTimestamp"), context.limits.scheduling
    scale_up = context.last(name, ["TriggeredScaleUp", "NotTriggerScaleUp", "Nominated"])
    comes = text(scale_up, "reason") in ("TriggeredScaleUp", "Nominated")
    if comes and event_time(scale_up):
        since, limit = event_time(scale_up), context.limits.scale_up
    problem = _lack(scheduled, scale_up, comes) if scheduled.reason == "Unschedulable" else None
    return PodState(name, Phase.SCHEDULING, since=since, due=_after(since, limit), problem=problem)


def _lack(scheduled: Condition, scale_up: KubeObject, comes: bool) -> Problem:
    """Lack of room is never the commit's fault."""
    said = f"no node takes it: {scheduled.message.partition(' preemption:')[0].removesuffix('.')}"
    if comes:
        said += "; the cluster autoscaler adds a node"
    elif scale_up:
        said += f"; the cluster autoscaler adds none: {shortened(text(scale_up, 'message'))}"
    lacks = _LACKS.findall(scheduled.message)
    gpu = next((each for each in lacks if "gpu" in each or "/mig-" in each), "")
    code = ReasonCode.UNSCHEDULABLE
    if gpu:
        code = ReasonCode.INSUFFICIENT_GPU
    elif lacks:
        extended = ReasonCode.INSUFFICIENT_ACCELERATOR if "/" in lacks[0] else ReasonCode.UNSCHEDULABLE
        code = _LACK_CODES.get(lacks[0], extended)
    return Problem(code, said, Fault.CLUSTER, lasting=False)


def _placed(pod: KubeObject, scheduled: Condition, ready: Condition, context: PodContext, crashes: int) -> PodState:
    name = name_of(pod)
    phase, since = _progress(pod, scheduled)
    problem, limit = _first_problem(pod, context), context.limits.of(phase)
    if phase is Phase.PULLING:
        problem = problem or _held_up(context.last(name, _HELD_UP))
        since = max(since or 0.0, event_time(context.last(name, ["Pulled"]))) or None
    elif problem is None and _was_ready(phase, since, ready):
        problem, since, limit = _unready(ready), ready.at, context.limits.patience
    return PodState(name, phase, since=since, due=_after(since, limit), problem=problem, crashes=crashes)


def _was_ready(phase: Phase, since: float | None, ready: Condition) -> bool:
    """Before its containers started it was not ready either: only what changed later was a loss."""
    return phase is Phase.LOADING and ready.is_false and ready.at is not None and since is not None and ready.at > since


def _unready(ready: Condition) -> Problem:
    """The kubelet says that containers are not ready; when its node is lost, a controller says it without a reason."""
    if ready.reason == "ContainersNotReady":
        return Problem(ReasonCode.HUNG, "it was ready, and its readiness probe fails now", Fault.COMMIT, lasting=False)
    return Problem(
        ReasonCode.NODE_LOST, "it was ready, and its node does not answer any more", Fault.CLUSTER, lasting=False
    )


def _progress(pod: KubeObject, scheduled: Condition) -> tuple[Phase, float | None]:
    """The phase of a pod that has a node, and since when."""
    placed_at = scheduled.at or time(pod, "metadata", "creationTimestamp")
    init = mappings(pod, "status", "initContainerStatuses")
    for each in init:
        if mapping(each, "state", "running") and not _is_sidecar(pod, text(each, "name")):
            return Phase.DOWNLOADING, time(each, "state", "running", "startedAt")
        if _has_crashed(each) and not mapping(each, "state", "running"):
            return Phase.DOWNLOADING, time(each, "lastState", "terminated", "finishedAt") or placed_at
    started = [
        time(each, "state", "running", "startedAt") or placed_at
        for each in mappings(pod, "status", "containerStatuses")
        if mapping(each, "state", "running") or _has_crashed(each)
    ]
    if started:
        return Phase.LOADING, max((each for each in started if each is not None), default=None)
    fetched = [time(each, "state", "terminated", "finishedAt") for each in init]
    return Phase.PULLING, max((each for each in [placed_at, *fetched] if each is not None), default=None)


def _is_sidecar(pod: KubeObject, name: str) -> bool:
    """An init container that stays, such as KServe's modelcar."""
    for each in mappings(pod, "spec", "initContainers"):
        if text(each, "name") == name:
            return text(each, "restartPolicy") == "Always"
    return False


def _first_problem(pod: KubeObject, context: PodContext) -> Problem | None:
    """Of its containers, in their order; one that waits or crashed before one that merely runs again."""
    found = [problem for each in _statuses(pod) if (problem := _problem(pod, each, context))]
    return next((each for each in found if each.lasting), found[0] if found else None)


def _problem(pod: KubeObject, status: KubeObject, context: PodContext) -> Problem | None:
    waiting = mapping(status, "state", "waiting")
    reason, message = text(waiting, "reason"), shortened(text(waiting, "message"))
    if reason in _IMAGE_REASONS or reason == "InvalidImageName":
        return _image_problem(pod, status, reason, message, context)
    if reason == "CreateContainerConfigError":
        return _config_problem(status, message)
    if reason in ("CreateContainerError", "RunContainerError"):
        fault = Fault.COMMIT if _NO_SUCH_PROGRAM.search(message) else Fault.CLUSTER
        return Problem(ReasonCode.CANNOT_START, f"{text(status, 'name')} cannot be started: {message}", fault)
    if _has_crashed(status):
        return _crash(pod, status, context)
    if waiting and reason not in _BEFORE_CREATION:
        said = f"{text(status, 'name')} waits: {reason}: {message}"
        return Problem(ReasonCode.CANNOT_START, said, Fault.CLUSTER, lasting=False)
    return None


def _image_problem(pod: KubeObject, status: KubeObject, reason: str, message: str, context: PodContext) -> Problem:
    """A back-off may hide what went wrong: then the events still say it."""
    if "rpc error" not in message and "failed to" not in message.lower() and "not found" not in message:
        message = shortened(text(context.last(name_of(pod), ["Failed"]), "message")) or message
    fault = Fault.COMMIT if reason == "InvalidImageName" or _NO_SUCH_IMAGE.search(message) else Fault.CLUSTER
    said = f"image {text(status, 'image') or 'of ' + text(status, 'name')}: {message or reason}"
    is_lasting = reason != "ErrImagePull" or bool(context.last(name_of(pod), ["BackOff"]))
    return Problem(ReasonCode.IMAGE_PULL_FAILED, said, fault, is_lasting)


def _config_problem(status: KubeObject, message: str) -> Problem:
    """The kubelet could not put the container's settings together. What is missing may come without a commit."""
    code = ReasonCode.FAILED_CREATE
    if "secret" in message.lower():
        code = ReasonCode.SECRET_NOT_FOUND
    elif "configmap" in message.lower():
        code = ReasonCode.CONFIG_MAP_NOT_FOUND
    return Problem(code, f"{text(status, 'name')} cannot be created: {message}", Fault.CLUSTER)


def _crash(pod: KubeObject, status: KubeObject, context: PodContext) -> Problem:
    ended = _last_crash(status)
    container, log = (
        text(status, "name"),
        [line for line in context.logs.get(name_of(pod), ()) if isinstance(line, str)],
    )
    words = [*log, text(ended, "message")]
    why = fatal_reason(log) or shortened(text(ended, "message")) or text(ended, "reason")
    exit_code = count(ended, "exitCode")
    said = (
        f"{container} ended"
        + ("" if exit_code is None else f" with exit code {exit_code}")
        + (f": {why}" if why else "")
    )
    is_fetching = container == STORAGE_INITIALIZER
    if text(ended, "reason") == "OOMKilled":
        code, said = ReasonCode.OOM_KILLED, f"{container} used more memory than its limit"
    elif is_fetching:
        code = ReasonCode.STAGING_FAILED
    else:
        backs_off = text(status, "state", "waiting", "reason") == "CrashLoopBackOff"
        code = ReasonCode.CRASH_LOOP_BACKOFF if backs_off else ReasonCode.CRASHED
    outside = is_fetching or blames_host(words) or is_crowded_out(words)
    return Problem(code, said, Fault.CLUSTER if outside else Fault.COMMIT, lasting=_is_looping(status, context.now))


def _is_looping(status: KubeObject, now: float) -> bool:
    """It is down, or it came up again but has crashed often lately."""
    if not mapping(status, "state", "running"):
        return True
    last = time(status, "lastState", "terminated", "finishedAt")
    is_recent = last is not None and now - last < CRASH_WINDOW
    return is_recent and (count(status, "restartCount") or 0) >= CRASHES_THAT_DEGRADE


def _last_crash(status: KubeObject) -> KubeObject:
    """Its last end with an error, empty if it had none. A server that ends again and again without one crashes too.
    Raises OddField."""
    ended = mapping(status, "state", "terminated")
    if not ended:
        ended = mapping(status, "lastState", "terminated")
        if ended and text(status, "state", "waiting", "reason") == "CrashLoopBackOff":
            return ended
    return ended if ended and count(ended, "exitCode") != 0 else {}


def _has_crashed(status: KubeObject) -> bool:
    return bool(_last_crash(status))


def _crashes(status: KubeObject) -> int:
    if not _has_crashed(status):
        return 0
    return max(1, count(status, "restartCount") or 0)


def _held_up(event: KubeObject) -> Problem | None:
    if not event:
        return None
    message = shortened(text(event, "message"))
    code = ReasonCode.FAILED_MOUNT
    if text(event, "reason") == "FailedCreatePodSandBox":
        code = ReasonCode.CANNOT_START
    elif "not found" in message and "secret" in message:
        code = ReasonCode.SECRET_NOT_FOUND
    elif "not found" in message and "configmap" in message:
        code = ReasonCode.CONFIG_MAP_NOT_FOUND
    return Problem(code, message or text(event, "reason"), Fault.CLUSTER, lasting=False)


def _after(since: float | None, limit: float) -> float | None:
    return None if since is None else since + limit
