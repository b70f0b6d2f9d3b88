"""One Deployment with its ReplicaSets and pods → how its rollout stands. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reconciler.cluster.health.children import Children, controller_of
from reconciler.cluster.health.fields import (
    NO_CONDITION,
    Condition,
    OddField,
    conditions,
    count,
    mapping,
    name_of,
    shortened,
    text,
    time,
)
from reconciler.cluster.health.pods import PodContext, PodState, is_leaving, pod_state
from reconciler.cluster.health.problems import Fault, Phase, Problem
from reconciler.cluster.health.rendering import replicas
from reconciler.model import ReasonCode
from reconciler.model.objects import KubeObject

_REVISION = "deployment.kubernetes.io/revision"
_COMPONENT = "component"
PREDICTOR = "predictor"
# Reasons of the condition Progressing while pods are being replaced. Its counts may still be those from before.
_ROLLING = frozenset({"NewReplicaSetCreated", "FoundNewReplicaSet", "ReplicaSetUpdated", "ProgressDeadlineExceeded"})
# In what the API server answers when it refuses a pod for what its template says.
_REFUSES_TEMPLATE = ("is invalid:", "Invalid value", "Required value", "violates PodSecurity")


@dataclass(frozen=True, slots=True)
class Workload:
    """A Deployment of a service. `newest` are the pods of its newest ReplicaSet, `older_ready` counts those of the
    others that still answer."""

    name: str
    component: str
    deployment: KubeObject
    newest: tuple[PodState, ...]
    older_ready: int
    desired: int
    problem: Problem | None
    is_observed: bool
    is_complete: bool
    is_out_of_time: bool

    @property
    def ready(self) -> int:
        """Replicas of the newest version that answer, as pods and Deployment both say."""
        pods = sum(each.serves for each in self.newest)
        return min(pods, count(self.deployment, "status", "readyReplicas") or 0)

    @property
    def serving(self) -> int:
        """Replicas of any version that answer."""
        return sum(each.serves for each in self.newest) + self.older_ready

    @property
    def crashes(self) -> int:
        """How often containers of the newest version ended with an error."""
        return sum(each.crashes for each in self.newest)

    @property
    def is_settled(self) -> bool:
        """Every replica that it asks for is of the newest version and answers, and no other is left."""
        return self.is_observed and self.is_complete and self.ready >= self.desired and not self.problem


def workloads(children: Children, context: PodContext) -> tuple[Workload, ...]:
    """The Deployments of one service in the order of their names. Raises OddField."""
    sets_by_owner = _by_controller(children.replica_sets)
    pods_by_owner = _by_controller(children.pods)
    made = [
        _workload(each, sets_by_owner.get(text(each, "metadata", "uid"), ()), pods_by_owner, context)
        for each in children.deployments
    ]
    return tuple(sorted(made, key=lambda each: each.name))


def newest_pods(children: Children) -> frozenset[str]:
    """UIDs of the pods of the newest ReplicaSet of each Deployment. What is odd is of none."""
    try:
        sets, pods = _by_controller(children.replica_sets), _by_controller(children.pods)
        found = [sorted(sets.get(text(each, "metadata", "uid"), ()), key=_age) for each in children.deployments]
        newest = [text(each[-1], "metadata", "uid") for each in found if each]
        return frozenset(text(pod, "metadata", "uid") for uid in newest for pod in pods.get(uid, ()))
    except OddField:
        return frozenset()


def _by_controller(bodies: Sequence[KubeObject]) -> Mapping[str, list[KubeObject]]:
    found: dict[str, list[KubeObject]] = defaultdict(list)
    for body in bodies:
        found[text(controller_of(body), "uid")].append(body)
    return found


def _workload(
    deployment: KubeObject,
    replica_sets: Sequence[KubeObject],
    pods: Mapping[str, list[KubeObject]],
    context: PodContext,
) -> Workload:
    ordered = sorted(replica_sets, key=_age)
    uids = [text(each, "metadata", "uid") for each in ordered]
    mine = [(uid, pod) for uid in uids for pod in pods.get(uid, ())]
    newest = uids[-1] if uids else ""
    staying = [(uid, pod_state(pod, context)) for uid, pod in mine if not is_leaving(pod)]
    known = conditions(deployment)
    return Workload(
        name=name_of(deployment),
        component=text(deployment, "metadata", "labels", _COMPONENT),
        deployment=deployment,
        newest=tuple(state for uid, state in staying if uid == newest),
        older_ready=sum(state.serves for uid, state in staying if uid != newest),
        desired=replicas(deployment),
        problem=_refusal(known) or _lost(newest, mine, staying),
        is_observed=_is_observed(deployment),
        is_complete=_is_complete(deployment, known),
        is_out_of_time=known.get("Progressing", NO_CONDITION).reason == "ProgressDeadlineExceeded",
    )


def _lost(newest: str, mine: list[tuple[str, KubeObject]], staying: list[tuple[str, PodState]]) -> Problem | None:
    """A node gave up its only pod: it was evicted, or the node could not give it its devices."""
    ended = [pod for uid, pod in mine if uid == newest and text(pod, "status", "phase") == "Failed"]
    if not ended or any(uid == newest for uid, _ in staying):
        return None
    why = ": ".join(filter(None, (text(ended[-1], "status", part) for part in ("reason", "message"))))
    said = f"pod {name_of(ended[-1])} failed" + (f": {shortened(why)}" if why else "")
    return Problem(ReasonCode.UNSCHEDULABLE, said, Fault.CLUSTER)


def _age(replica_set: KubeObject) -> tuple[int, float]:
    """Kubernetes numbers ReplicaSets; a rollback to an old one gives it a new number."""
    revision = text(mapping(replica_set, "metadata", "annotations"), _REVISION)
    number = int(revision) if revision.isdecimal() and len(revision) < 20 else 0
    return number, time(replica_set, "metadata", "creationTimestamp") or 0.0


def _is_observed(deployment: KubeObject) -> bool:
    generation = count(deployment, "metadata", "generation")
    observed = count(deployment, "status", "observedGeneration")
    return generation is not None and observed is not None and observed >= generation


def _is_complete(deployment: KubeObject, known: Mapping[str, Condition]) -> bool:
    """The rules of `kubectl rollout status`, and no counts from before the rollout."""
    desired, status = replicas(deployment), mapping(deployment, "status")
    updated = count(status, "updatedReplicas") or 0
    if known.get("Progressing", NO_CONDITION).reason in _ROLLING:
        return False
    return updated >= desired and (count(status, "replicas") or 0) <= updated <= (
        count(status, "availableReplicas") or 0
    )


def _refusal(known: Mapping[str, Condition]) -> Problem | None:
    """The API server or a webhook refuses its pods."""
    failed = known.get("ReplicaFailure", NO_CONDITION)
    if not failed.is_true:
        return None
    if "exceeded quota" in failed.message:
        return Problem(ReasonCode.QUOTA_EXCEEDED, f"no pod can be created: {failed.message}", Fault.CLUSTER)
    fault = Fault.COMMIT if any(sign in failed.message for sign in _REFUSES_TEMPLATE) else Fault.CLUSTER
    return Problem(ReasonCode.FAILED_CREATE, f"no pod can be created: {failed.message or failed.reason}", fault)


def slowest(states: Sequence[PodState]) -> PodState | None:
    """Of the pods that are not ready, the one that has come least far."""
    order = list(Phase)
    waiting = [each for each in states if each.phase is not Phase.READY]
    return min(waiting, key=lambda each: order.index(each.phase), default=None)
