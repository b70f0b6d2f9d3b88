"""An InferenceService with what runs for it → is it well, how far is it, and what is wrong? Pure.

KServe's own status is not enough: a failed update reads Ready and UpToDate, and `lastFailureInfo` is never cleared. So
Deployments and pods decide, and KServe is asked only what it alone knows: that it cannot render the service, that it is
stopped, and that its URL is there.
"""

from __future__ import annotations

from collections.abc import Callable

from reconciler.cluster.health.children import Children, subject_of
from reconciler.cluster.health.fields import (
    NO_CONDITION,
    OddField,
    conditions,
    count,
    edited_at,
    flag,
    mapping,
    shortened,
    text,
    time,
    touched_at,
)
from reconciler.cluster.health.look import Expected, Look, ServingHealth, degraded, progressing, verdict
from reconciler.cluster.health.pods import Logs, PodContext, PodState, event_time, has_ended
from reconciler.cluster.health.problems import Fault, HealthLimits, Phase, Problem
from reconciler.cluster.health.rendering import unlike, unrendered
from reconciler.cluster.health.workload import Workload, slowest, workloads
from reconciler.kserve.names import STOP
from reconciler.model import Health, HealthStatus, ReasonCode, progress
from reconciler.model.objects import KubeObject

DISABLE_AUTO_UPDATE = "serving.kserve.io/disable-auto-update"
_KNATIVE = frozenset({"Knative", "Serverless"})
# KServe's reasons why it cannot render a service. Only the last is wholly the commit's: a runtime may still appear.
_FAILURES = {
    "RuntimeNotRecognized": (ReasonCode.RUNTIME_NOT_RECOGNIZED, Fault.CLUSTER),
    "RuntimeDisabled": (ReasonCode.RUNTIME_DISABLED, Fault.CLUSTER),
    "NoSupportingRuntime": (ReasonCode.NO_SUPPORTING_RUNTIME, Fault.CLUSTER),
    "InvalidPredictorSpec": (ReasonCode.INVALID_PREDICTOR_SPEC, Fault.COMMIT),
}
_CONFLICT = "the object has been modified"
_BAD_STORAGE = ("StorageURI not supported", "must provide only one of storageUri")


def service_health(
    service: KubeObject | None,
    children: Children,
    now: float,
    limits: HealthLimits,
    *,
    logs: Logs | None = None,
    expected: Expected | None = None,
) -> ServingHealth:
    """How an InferenceService stands. `now` is in seconds since the epoch; `logs` are of pods that crashed. With
    `expected` an edit of the runtime, or an argument that git no longer says, is waited for too.

    Never raises: the objects are written by others. What cannot be read is Unknown.
    """
    if service is None:
        return ServingHealth(Health(HealthStatus.MISSING, progress(ReasonCode.MISSING, "it is not on the cluster")))
    try:
        context = PodContext.of(children.events, logs or {}, now, limits)
        return _judge(_look(service, children, context, expected))
    except OddField as error:
        said = f"{error} has a value that no controller writes, so its health is not known"
        return ServingHealth(Health(HealthStatus.UNKNOWN, progress(ReasonCode.UNREADABLE_STATUS, said)))


def _look(service: KubeObject, children: Children, context: PodContext, expected: Expected | None) -> Look:
    generation = count(service, "metadata", "generation")
    if generation is None:
        raise OddField("metadata.generation")
    own = [each for each in children.events if text(subject_of(each), "kind") == "InferenceService"]
    return Look(
        service=service,
        workloads=workloads(children, context),
        own_events=tuple(sorted(own, key=event_time)),
        conditions=conditions(service),
        generation=generation,
        edited_at=edited_at(service) or context.now,
        now=context.now,
        limits=context.limits,
        pods=sum(not has_ended(each) for each in children.pods),
        expected=expected,
    )


def _judge(look: Look) -> ServingHealth:
    """The first rule that has something to say decides."""
    rules: tuple[Callable[[Look], ServingHealth | None], ...] = (
        _leaving, _unseen, _not_rendered, _stopped, _not_shown, _scaled_to_zero, _rolling, _not_announced,
    )  # fmt: skip
    return next((found for rule in rules if (found := rule(look))), None) or _healthy(look)


def _leaving(look: Look) -> ServingHealth | None:
    if time(look.service, "metadata", "deletionTimestamp") is None:
        return None
    left = look.service["metadata"].get("finalizers")
    held = f", held by {', '.join(map(str, left))}" if isinstance(left, list) and left else ""
    return progressing(look, ReasonCode.DELETING, f"it is being deleted{held}")


def _silent(look: Look, since: float | None, waits_for: str) -> ServingHealth:
    """A controller has not done its part since then: it may yet, or something keeps it."""
    start = look.now if since is None else min(since, look.now)
    due = start + look.limits.controller
    if look.now < due:
        said = f"KServe has not acted on generation {look.generation} yet"
        return progressing(look, ReasonCode.NOT_YET_OBSERVED, said, look_again_at=due)
    said = (
        f"no controller has acted on generation {look.generation} within {look.limits.controller:g} s"
        f" ({waits_for}); see whether KServe's runs, and read its log"
    )
    return degraded(look, Problem(ReasonCode.CONTROLLER_SILENT, said, Fault.CLUSTER))


def _unseen(look: Look) -> ServingHealth | None:
    if look.conditions or mapping(look.service, "status", "modelStatus"):
        return None
    return _silent(look, look.edited_at, "its status is empty")


def _not_rendered(look: Look) -> ServingHealth | None:
    """KServe says, in one of three places, that it cannot render the service. That may be about the edit before."""
    problem = _invalid_spec(look) or _failed_reconcile(look) or _failed_silently(look)
    if problem is None:
        return None
    if not look.is_answered:
        return _unanswered(look)
    if _wants_stop(look) and not look.pods and not look.workloads:
        return _is_stopped(look)
    if _wants_stop(look):
        problem = Problem(problem.code, f"it cannot be stopped: {problem.message}", problem.fault)
    return degraded(look, problem, is_acted_on=True, give_up_at=look.edited_at + look.limits.patience)


def _unanswered(look: Look) -> ServingHealth:
    said = f"KServe has not answered for generation {look.generation} yet"
    due = look.edited_at + look.limits.settle
    return progressing(look, ReasonCode.NOT_YET_OBSERVED, said, look_again_at=due)


def _invalid_spec(look: Look) -> Problem | None:
    if text(look.service, "status", "modelStatus", "transitionStatus") != "InvalidSpec":
        return None
    told = mapping(look.service, "status", "modelStatus", "lastFailureInfo")
    code, fault = _FAILURES.get(text(told, "reason"), (ReasonCode.INVALID_PREDICTOR_SPEC, Fault.CLUSTER))
    said = (
        _last_error(look, since=look.edited_at) or shortened(text(told, "message")) or "KServe calls the spec invalid"
    )
    return Problem(code, said, fault)


def _failed_reconcile(look: Look) -> Problem | None:
    for each in look.conditions.values():
        if each.is_false and each.reason == "ReconcileFailed" and _CONFLICT not in each.message:
            fault = Fault.COMMIT if "is invalid:" in each.message else Fault.CLUSTER
            return Problem(ReasonCode.RECONCILE_FAILED, each.message or "KServe cannot reconcile it", fault)
    return None


def _failed_silently(look: Look) -> Problem | None:
    """What KServe writes into no status, but into an event: a storage URI that it does not take, for example."""
    said = _last_error(look, since=look.edited_at)
    if not said or (look.predictor and not unlike(look.service, look.predictor.deployment)):
        return None
    if any(sign in said for sign in _BAD_STORAGE):
        return Problem(ReasonCode.INVALID_STORAGE, said, Fault.COMMIT)
    return Problem(ReasonCode.RECONCILE_FAILED, said, Fault.CLUSTER)


def _last_error(look: Look, since: float) -> str:
    for event in reversed(look.own_events):
        said = shortened(text(event, "message"))
        if text(event, "reason") == "InternalError" and event_time(event) >= since and _CONFLICT not in said:
            return said
    return ""


def _wants_stop(look: Look) -> bool:
    return text(look.annotations, STOP).lower() == "true"


def _stopped(look: Look) -> ServingHealth | None:
    says_stopped = look.conditions.get("Stopped", NO_CONDITION).is_true
    if not _wants_stop(look):
        return _silent(look, touched_at(look.service), "it is still stopped") if says_stopped else None
    if look.pods or not says_stopped:
        return progressing(look, ReasonCode.STOPPED, "it is being stopped")
    return _is_stopped(look)


def _is_stopped(look: Look) -> ServingHealth:
    return verdict(look, HealthStatus.SUSPENDED, ReasonCode.STOPPED, f"stopped by {STOP}", is_acted_on=True)


def _has_deployments(look: Look) -> bool:
    return text(look.service, "status", "deploymentMode") not in _KNATIVE


def _not_shown(look: Look) -> ServingHealth | None:
    """Does the Deployment show what the service says?"""
    if text(look.service, "status", "deploymentMode") == "ModelMesh":
        problem = Problem(ReasonCode.MODEL_MESH, "KServe deploys nothing in mode ModelMesh", Fault.COMMIT)
        return degraded(look, problem, is_acted_on=True)
    if not look.is_answered:
        return _unanswered(look)
    if not _has_deployments(look):
        return None
    if look.predictor is None:
        return _silent(look, touched_at(look.service), "there is no Deployment")
    differs = unlike(look.service, look.predictor.deployment) or _unexpected(look, look.predictor)
    if not differs:
        return None
    if text(look.annotations, DISABLE_AUTO_UPDATE).lower() == "true":
        said = f"KServe does not roll out {differs}: {DISABLE_AUTO_UPDATE} makes it skip a service that is ready"
        return degraded(look, Problem(ReasonCode.AUTO_UPDATE_DISABLED, said, Fault.CLUSTER))
    since = max(look.edited_at, look.expected.since if look.expected else 0.0)
    return _silent(look, since, f"the Deployment does not show {differs}")


def _unexpected(look: Look, predictor: Workload) -> str:
    if look.expected is None:
        return ""
    return unrendered(predictor.deployment, look.expected.pod, look.expected.added)


def _scaled_to_zero(look: Look) -> ServingHealth | None:
    predictor = look.predictor
    if predictor is None or predictor.desired or not predictor.is_observed:
        return None
    if look.pods:
        return progressing(look, ReasonCode.SCALED_TO_ZERO, "its replicas stop", is_acted_on=True)
    said = "its Deployment asks for 0 replicas"
    return verdict(look, HealthStatus.SUSPENDED, ReasonCode.SCALED_TO_ZERO, said, is_acted_on=True)


def _rolling(look: Look) -> ServingHealth | None:
    """The Deployments that are not settled: one that failed before one that is under way."""
    found = [_workload_verdict(look, each) for each in look.workloads if not each.is_settled]
    failed = [each for each in found if each.health.phase is HealthStatus.DEGRADED]
    return next(iter([*failed, *found]), None)


def _workload_verdict(look: Look, workload: Workload) -> ServingHealth:
    if not workload.is_observed:
        return _silent(look, edited_at(workload.deployment), f"Deployment {workload.name} is not looked at")
    states = [each for each in workload.newest if each.phase is not Phase.READY]
    problem = workload.problem or next((each.problem for each in states if each.problem and each.problem.lasting), None)
    late = [each for each in states if each.due is not None and each.due <= look.now]
    if problem is None and late:
        problem = late[0].problem or _too_late(late[0], look.limits)
    if problem is None and flag(workload.deployment, "spec", "paused"):
        said = f"Deployment {workload.name} is paused; resume it with kubectl rollout resume"
        problem = Problem(ReasonCode.SUSPENDED, said, Fault.CLUSTER)
    has_time = any(each.due is not None and each.due > look.now for each in states)
    if problem is None and workload.is_out_of_time and not has_time and workload.ready < workload.desired:
        said = f"Deployment {workload.name} made no progress before its progressDeadlineSeconds"
        problem = Problem(ReasonCode.PROGRESS_DEADLINE_EXCEEDED, said, Fault.COMMIT)
    if problem:
        return degraded(look, problem, is_acted_on=True, give_up_at=_give_up_at(look, workload, states))
    due = min((each.due for each in states if each.due is not None), default=None)
    code, said, known = _how_far(workload, states)
    return progressing(look, code, said, is_acted_on=True, look_again_at=due, problem=known)


def _give_up_at(look: Look, workload: Workload, states: list[PodState]) -> float | None:
    """After some patience, counted from when its pods came where they are, or from the edit where there are none."""
    since = [each.since for each in states if each.since is not None] or [edited_at(workload.deployment) or look.now]
    due = [each.due for each in states if each.due is not None]
    return min([max(since) + look.limits.patience, *due])


def _too_late(state: PodState, limits: HealthLimits) -> Problem:
    """A server that loads for too long is the commit's; one that waits for a node, an image or files is not."""
    fault = Fault.COMMIT if state.phase is Phase.LOADING else Fault.CLUSTER
    said = f"pod {state.name} is in phase {state.phase} for more than {limits.of(state.phase):g} s"
    return Problem(ReasonCode.PROGRESS_DEADLINE_EXCEEDED, said, fault)


def _how_far(workload: Workload, states: list[PodState]) -> tuple[ReasonCode, str, Problem | None]:
    problem = next((each.problem for each in states if each.problem), None)
    if problem:
        return problem.code, problem.message, problem
    said = f"{workload.ready} of {workload.desired} replicas of {workload.name} are ready"
    state = slowest(states)
    return ReasonCode.PROGRESSING, said + (f", one in phase {state.phase}" if state else ""), None


def _not_announced(look: Look) -> ServingHealth | None:
    """All replicas are ready; KServe has yet to say so, and to give the URL."""
    ready = look.conditions.get("Ready", NO_CONDITION)
    if ready.is_true:
        return None
    since = max(look.edited_at, ready.at or 0.0, _ready_since(look) or 0.0)
    cause = next((each for each in look.conditions.values() if each.is_false and each.reason), ready)
    due = since + (look.limits.controller if _has_deployments(look) else look.limits.loading)
    if look.now < due:
        said = "its replicas are ready; KServe does not say so yet"
        return progressing(look, ReasonCode.PROGRESSING, said, is_acted_on=True, look_again_at=due)
    said = f"KServe does not call it ready: {cause.message or cause.reason or 'it gives no reason'}"
    return degraded(look, Problem(ReasonCode.NOT_SERVING, said, Fault.CLUSTER), is_acted_on=True)


def _ready_since(look: Look) -> float | None:
    times = [state.since for each in look.workloads for state in each.newest if state.phase is Phase.READY]
    return max((each for each in times if each is not None), default=None)


def _healthy(look: Look) -> ServingHealth:
    predictor = look.predictor
    said = f"{predictor.ready} of {predictor.desired} replicas serve" if predictor else "KServe calls it ready"
    crash = next((state.problem for each in look.workloads for state in each.newest if state.problem), None)
    return verdict(
        look,
        HealthStatus.HEALTHY,
        ReasonCode.SERVING,
        said,
        is_acted_on=True,
        problem=crash,
        ready_since=_ready_since(look),
    )
