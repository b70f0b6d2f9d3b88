"""The health of any object but an InferenceService, by the rules of kstatus. Pure.

kstatus calls a pod that cannot be scheduled failed after 15 s, where a node with a GPU takes minutes to come: here the
deadlines of HealthLimits count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from reconciler.cluster.health.fields import (
    NO_CONDITION,
    Condition,
    OddField,
    conditions,
    count,
    edited_at,
    flag,
    mapping,
    mappings,
    shortened,
    text,
    time,
)
from reconciler.cluster.health.pods import PodContext, pod_state
from reconciler.cluster.health.problems import HealthLimits, Phase
from reconciler.cluster.health.rendering import replicas
from reconciler.model import Health, HealthStatus, ReasonCode, progress
from reconciler.model.objects import KubeObject, ObjectId

_GATEWAYS = "gateway.networking.k8s.io"
_BINDS_LATE = "WaitForFirstConsumer"
# In the order in which they count.
_GENERIC = ("Ready", "Available", "Programmed")


@dataclass(frozen=True, slots=True)
class ObjectHealth:
    """How an object stands. `look_again_at` is when time alone may change the answer."""

    health: Health
    look_again_at: float | None = None


@dataclass(frozen=True, slots=True)
class HealthContext:
    """What else decides: the time, events about the object, and for a claim the binding mode of its StorageClass; ""
    where that is not known."""

    now: float
    limits: HealthLimits
    events: tuple[KubeObject, ...] = ()
    binding_mode: str = ""


_Rule = Callable[[KubeObject, HealthContext], ObjectHealth]


def object_health(body: KubeObject, around: HealthContext) -> ObjectHealth | None:
    """How an object of any kind stands. None: its kind says nothing about health, such as a ServingRuntime or a Secret.

    Never raises: what cannot be read is Unknown.
    """
    try:
        return _health(body, around)
    except (OddField, KeyError, TypeError, AttributeError) as error:
        said = f"{error} has a value that no controller writes, so its health is not known"
        return _is(HealthStatus.UNKNOWN, ReasonCode.UNREADABLE_STATUS, said)


def _health(body: KubeObject, around: HealthContext) -> ObjectHealth | None:
    kind = ObjectId.of(body)
    if time(body, "metadata", "deletionTimestamp") is not None:
        held = mapping(body, "metadata").get("finalizers")
        by = f", held by {', '.join(map(str, held))}" if isinstance(held, list) and held else ""
        return _is(HealthStatus.PROGRESSING, ReasonCode.DELETING, f"it is being deleted{by}")
    rule = _RULES.get((kind.group, kind.kind))
    if rule is None and not mapping(body, "status"):
        return None
    return _not_looked_at(body, around) or (rule or _by_conditions)(body, around)


def _is(status: HealthStatus, code: ReasonCode, message: str, look_again_at: float | None = None) -> ObjectHealth:
    return ObjectHealth(Health(status, progress(code, message)), look_again_at)


def _well(message: str) -> ObjectHealth:
    return _is(HealthStatus.HEALTHY, ReasonCode.SERVING, message)


def _failed(message: str) -> ObjectHealth:
    return _is(HealthStatus.DEGRADED, ReasonCode.OBJECT_FAILED, message)


def _waits(message: str, body: KubeObject, around: HealthContext, since: float | None, limit: float) -> ObjectHealth:
    """Progressing until its time is over, and then Degraded."""
    start = max(since or 0.0, edited_at(body) or 0.0)
    if not start or around.now < start + limit:
        return _is(HealthStatus.PROGRESSING, ReasonCode.PROGRESSING, message, start + limit if start else None)
    return _is(HealthStatus.DEGRADED, ReasonCode.PROGRESS_DEADLINE_EXCEEDED, f"{message}, for more than {limit:g} s")


def _not_looked_at(body: KubeObject, around: HealthContext) -> ObjectHealth | None:
    generation, observed = count(body, "metadata", "generation"), count(body, "status", "observedGeneration")
    if generation is None or observed is None or observed >= generation:
        return None
    start, said = edited_at(body), f"its controller has not looked at generation {generation} yet"
    if start is not None and around.now >= start + around.limits.controller:
        return _is(HealthStatus.DEGRADED, ReasonCode.CONTROLLER_SILENT, said)
    due = None if start is None else start + around.limits.controller
    return _is(HealthStatus.PROGRESSING, ReasonCode.NOT_YET_OBSERVED, said, due)


def _seen(body: KubeObject, around: HealthContext) -> ObjectHealth | None:
    """Kinds whose controllers always write observedGeneration: without it nobody looked."""
    if count(body, "status", "observedGeneration") is None:
        limit = around.limits.controller
        return _waits("its controller has not looked at it yet", body, around, None, limit)
    return None


def _said(condition: Condition, fallback: str) -> str:
    return condition.message or condition.reason or fallback


def _deployment(body: KubeObject, around: HealthContext) -> ObjectHealth:
    known, status, desired = conditions(body), mapping(body, "status"), replicas(body)
    moves = known.get("Progressing", NO_CONDITION)
    if unseen := _seen(body, around):
        return unseen
    if moves.reason == "ProgressDeadlineExceeded":
        return _failed(_said(moves, ""))
    if (refused := known.get("ReplicaFailure", NO_CONDITION)).is_true:
        return _failed(f"no pod can be created: {_said(refused, 'it is not said why')}")
    updated, available = count(status, "updatedReplicas") or 0, count(status, "availableReplicas") or 0
    if flag(body, "spec", "paused") and updated < desired:
        return _is(HealthStatus.SUSPENDED, ReasonCode.SUSPENDED, "spec.paused holds its rollout")
    if updated < desired or (count(status, "replicas") or 0) > updated or available < desired:
        return _is(HealthStatus.PROGRESSING, ReasonCode.PROGRESSING, f"{available} of {desired} replicas are available")
    return _well(f"{available} of {desired} replicas are available")


def _stateful_set(body: KubeObject, around: HealthContext) -> ObjectHealth:
    status, desired = mapping(body, "status"), replicas(body)
    if unseen := _seen(body, around):
        return unseen
    ready, updated = count(status, "readyReplicas") or 0, count(status, "updatedReplicas") or 0
    if ready < desired:
        return _is(HealthStatus.PROGRESSING, ReasonCode.PROGRESSING, f"{ready} of {desired} replicas are ready")
    if text(body, "spec", "updateStrategy", "type") != "OnDelete":
        partition = count(body, "spec", "updateStrategy", "rollingUpdate", "partition") or 0
        if updated < desired - min(partition, desired):
            return _is(HealthStatus.PROGRESSING, ReasonCode.PROGRESSING, f"{updated} of {desired} replicas are updated")
    return _well(f"{ready} of {desired} replicas are ready")


def _daemon_set(body: KubeObject, around: HealthContext) -> ObjectHealth:
    status = mapping(body, "status")
    if unseen := _seen(body, around):
        return unseen
    desired = count(status, "desiredNumberScheduled") or 0
    updated, available = count(status, "updatedNumberScheduled") or 0, count(status, "numberAvailable") or 0
    if text(body, "spec", "updateStrategy", "type") == "OnDelete":
        updated = desired
    if min(updated, available) < desired:
        return _is(HealthStatus.PROGRESSING, ReasonCode.PROGRESSING, f"{available} of {desired} pods are available")
    return _well(f"{available} of {desired} pods are available")


def _replica_set(body: KubeObject, around: HealthContext) -> ObjectHealth:
    desired, available = replicas(body), count(body, "status", "availableReplicas") or 0
    if unseen := _seen(body, around):
        return unseen
    if (refused := conditions(body).get("ReplicaFailure", NO_CONDITION)).is_true:
        return _failed(_said(refused, "a pod cannot be created"))
    status = HealthStatus.HEALTHY if available >= desired else HealthStatus.PROGRESSING
    code = ReasonCode.SERVING if available >= desired else ReasonCode.PROGRESSING
    return _is(status, code, f"{available} of {desired} replicas are available")


def _job(body: KubeObject, around: HealthContext) -> ObjectHealth:
    known = conditions(body)
    if (failed := known.get("Failed", NO_CONDITION)).is_true:
        return _failed(_said(failed, "the Job failed"))
    if known.get("Complete", NO_CONDITION).is_true:
        return _well("the Job is complete")
    if flag(body, "spec", "suspend"):
        return _is(HealthStatus.SUSPENDED, ReasonCode.SUSPENDED, "spec.suspend holds it")
    return _is(HealthStatus.PROGRESSING, ReasonCode.PROGRESSING, "the Job runs")


def _cron_job(body: KubeObject, around: HealthContext) -> ObjectHealth:
    if flag(body, "spec", "suspend"):
        return _is(HealthStatus.SUSPENDED, ReasonCode.SUSPENDED, "spec.suspend holds it")
    return _well("it waits for its time")


def _claim(body: KubeObject, around: HealthContext) -> ObjectHealth:
    """A claim that is bound once a pod uses it is well: whoever waits for it before the pod waits for ever."""
    phase = text(body, "status", "phase")
    if phase == "Bound":
        return _well("it is bound")
    if phase == "Lost":
        return _failed("its volume is lost")
    if around.binding_mode == _BINDS_LATE or any(text(each, "reason") == _BINDS_LATE for each in around.events):
        return _well("it is bound once a pod uses it")
    failed = [each for each in around.events if text(each, "reason") == "ProvisioningFailed"]
    if failed:
        return _failed(shortened(text(failed[-1], "message")) or "no volume can be made for it")
    if around.binding_mode:
        return _waits("it is not bound to a volume", body, around, None, around.limits.pulling)
    said = f"it is not bound to a volume; with {_BINDS_LATE} it is bound once a pod uses it"
    return _is(HealthStatus.PROGRESSING, ReasonCode.PROGRESSING, said)


def _pod(body: KubeObject, around: HealthContext) -> ObjectHealth:
    phase = text(body, "status", "phase")
    if phase == "Succeeded":
        return _well("it has completed")
    if phase == "Failed":
        return _failed(text(body, "status", "message") or text(body, "status", "reason") or "it has failed")
    state = pod_state(body, PodContext.of(around.events, {}, around.now, around.limits))
    if state.phase is Phase.READY:
        return _well("it is ready")
    problem, is_late = state.problem, state.due is not None and state.due <= around.now
    if problem and (problem.lasting or is_late):
        return _is(HealthStatus.DEGRADED, problem.code, problem.message)
    said = problem.message if problem else f"it is in phase {state.phase}"
    if is_late:
        return _is(HealthStatus.DEGRADED, ReasonCode.PROGRESS_DEADLINE_EXCEEDED, said)
    return _is(HealthStatus.PROGRESSING, problem.code if problem else ReasonCode.PROGRESSING, said, state.due)


def _service(body: KubeObject, around: HealthContext) -> ObjectHealth:
    if text(body, "spec", "type") != "LoadBalancer" or mappings(body, "status", "loadBalancer", "ingress"):
        return _well("it has its address")
    return _waits("its load balancer has no address", body, around, None, around.limits.pulling)


def _definition(body: KubeObject, around: HealthContext) -> ObjectHealth:
    known = conditions(body)
    if (names := known.get("NamesAccepted", NO_CONDITION)).is_false:
        return _failed(_said(names, "its names are taken"))
    if known.get("Established", NO_CONDITION).is_true:
        return _well("its kind can be used")
    return _waits("its kind cannot be used", body, around, None, around.limits.controller)


def _route(body: KubeObject, around: HealthContext) -> ObjectHealth:
    """Each Gateway says for itself whether it takes the route."""
    parents = mappings(body, "status", "parents")
    if not parents:
        return _waits("no Gateway has taken it", body, around, None, around.limits.controller)
    for parent in parents:
        generation = count(body, "metadata", "generation") or 0
        for each in mappings(parent, "conditions"):
            if text(each, "type") not in ("Accepted", "ResolvedRefs"):
                continue
            name = text(parent, "parentRef", "name")
            if (count(each, "observedGeneration") or generation) < generation:
                said = f"Gateway {name} has not looked at generation {generation}"
                return _waits(said, body, around, None, around.limits.controller)
            if text(each, "status") == "False":
                return _failed(f"Gateway {name}: {text(each, 'message') or text(each, 'reason')}")
    return _well("its Gateways have taken it")


def _by_phase(good: Iterable[str], bad: Iterable[str]) -> _Rule:
    well, ill = frozenset(good), frozenset(bad)

    def rule(body: KubeObject, around: HealthContext) -> ObjectHealth:
        phase = text(body, "status", "phase")
        if phase in ill:
            return _failed(text(body, "status", "message") or f"its phase is {phase}")
        if phase in well:
            return _well(f"its phase is {phase}")
        return _is(HealthStatus.PROGRESSING, ReasonCode.PROGRESSING, f"its phase is {phase or 'not said'}")

    return rule


def _by_conditions(body: KubeObject, around: HealthContext) -> ObjectHealth:
    """kstatus: Stalled and Reconciling are abnormal when true; who has none of these conditions is taken to be well."""
    known = conditions(body)
    if (stalled := known.get("Stalled", NO_CONDITION)).is_true:
        return _failed(_said(stalled, "it is stalled"))
    if (moves := known.get("Reconciling", NO_CONDITION)).is_true:
        return _waits(_said(moves, "its controller works on it"), body, around, moves.at, around.limits.loading)
    name = next((each for each in _GENERIC if each in known), "")
    if not name or known[name].is_true:
        return _well(f"its condition {name} is true" if name else "its status names nothing that is wrong")
    said = f"{name} is {known[name].status}: {_said(known[name], 'it is not said why')}"
    return _waits(said, body, around, known[name].at, around.limits.loading)


_RULES: Mapping[tuple[str, str], _Rule] = {
    ("", "Namespace"): _by_phase(["Active"], []),
    ("", "PersistentVolume"): _by_phase(["Available", "Bound", "Released"], ["Failed"]),
    ("", "PersistentVolumeClaim"): _claim,
    ("", "Pod"): _pod,
    ("", "Service"): _service,
    ("apiextensions.k8s.io", "CustomResourceDefinition"): _definition,
    ("apps", "DaemonSet"): _daemon_set,
    ("apps", "Deployment"): _deployment,
    ("apps", "ReplicaSet"): _replica_set,
    ("apps", "StatefulSet"): _stateful_set,
    ("batch", "CronJob"): _cron_job,
    ("batch", "Job"): _job,
    (_GATEWAYS, "GRPCRoute"): _route,
    (_GATEWAYS, "HTTPRoute"): _route,
}
