"""When a rollout is over, and what then follows from it."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from reconciler.cluster.health.children import Children
from reconciler.cluster.health.look import Expected, ServingHealth
from reconciler.cluster.health.problems import Fault, HealthLimits
from reconciler.cluster.health.rollout import RolloutState, rollout_outcome
from reconciler.cluster.health.service import service_health
from reconciler.model import HealthStatus, ReasonCode
from tests.cluster.health.recorded import SEQUENCES, START, Cluster, condition, stamp

LIMITS = HealthLimits()


@pytest.fixture
def healthy() -> Cluster:
    """A service with one replica that got ready within the first second."""
    [sequence] = [each for each in SEQUENCES if each.name == "noingress-happy-pvc"]
    *_, (_, cluster, _) = sequence.play()
    return cluster


def look(cluster: Cluster, at: float, **more: Any) -> ServingHealth:
    return service_health(cluster.service, cluster.children(), START + at, LIMITS, **more)


def test_rollout_succeeds_only_after_its_replicas_were_ready_for_a_while(healthy: Cluster) -> None:
    early = rollout_outcome(look(healthy, 10), START + 10, LIMITS)
    assert (early.state, early.look_again_at) == (RolloutState.UNDER_WAY, START + LIMITS.min_ready)
    assert rollout_outcome(look(healthy, 31), START + 31, LIMITS).state is RolloutState.SUCCEEDED
    assert rollout_outcome(look(healthy, 10), START + 10, LIMITS, proven=True).state is RolloutState.SUCCEEDED


def test_replica_that_crashed_on_trial_has_failed_though_it_came_up_again(healthy: Cluster) -> None:
    [pod] = healthy.pods.values()
    ended = {"terminated": {"exitCode": 1, "reason": "Error", "finishedAt": stamp(0)}}
    pod["status"]["containerStatuses"][0] |= {"restartCount": 1, "lastState": ended}
    health = look(healthy, 60)
    assert health.health.phase is HealthStatus.HEALTHY
    outcome = rollout_outcome(health, START + 60, LIMITS)
    assert (outcome.state, outcome.fault, outcome.reason.code) == (
        RolloutState.FAILED,
        Fault.COMMIT,
        ReasonCode.CRASHED,
    )
    assert rollout_outcome(health, START + 60, LIMITS, proven=True).state is RolloutState.SUCCEEDED
    lenient = HealthLimits(crashes=2)
    assert rollout_outcome(health, START + 60, lenient).state is RolloutState.SUCCEEDED


def test_quota_is_the_clusters_fault_and_a_refused_template_the_commits(healthy: Cluster) -> None:
    for message, code, fault in (
        ('pods "m" is forbidden: exceeded quota: gpus', ReasonCode.QUOTA_EXCEEDED, Fault.CLUSTER),
        ('Pod "m" is invalid: spec.containers[0].image: Required value', ReasonCode.FAILED_CREATE, Fault.COMMIT),
        ("failed calling webhook: connection refused", ReasonCode.FAILED_CREATE, Fault.CLUSTER),
    ):
        cluster = deepcopy(healthy)
        assert cluster.deployment
        refused = condition("ReplicaFailure", f"True FailedCreate: {message}", 5)
        cluster.deployment["status"] |= {"conditions": [refused], "readyReplicas": 0, "availableReplicas": 0}
        cluster.pods = {}
        outcome = rollout_outcome(look(cluster, 200), START + 200, LIMITS)
        assert (outcome.state, outcome.reason.code, outcome.fault) == (RolloutState.FAILED, code, fault)
        assert outcome.is_quarantined == (fault is Fault.COMMIT)
        assert message in outcome.reason.message


def test_server_that_loads_for_too_long_is_the_commits(healthy: Cluster) -> None:
    [pod] = healthy.pods.values()
    pod["status"]["conditions"] = [condition("PodScheduled", "True", 0)]
    assert healthy.deployment
    healthy.deployment["status"] |= {"readyReplicas": 0, "availableReplicas": 0}
    before = look(healthy, LIMITS.loading - 5)
    assert (before.health.phase, before.look_again_at) == (HealthStatus.PROGRESSING, START + LIMITS.loading)
    after = look(healthy, LIMITS.loading + 5)
    assert after.health.reason.code is ReasonCode.PROGRESS_DEADLINE_EXCEEDED
    assert rollout_outcome(after, START + LIMITS.loading + 5, LIMITS).fault is Fault.COMMIT


def test_progress_deadline_of_the_deployment_does_not_cut_a_long_load_short(healthy: Cluster) -> None:
    [pod] = healthy.pods.values()
    pod["status"]["conditions"] = [condition("PodScheduled", "True", 0)]
    late = condition("Progressing", "False ProgressDeadlineExceeded", 600)
    assert healthy.deployment
    healthy.deployment["status"] |= {"readyReplicas": 0, "availableReplicas": 0, "conditions": [late]}
    assert look(healthy, 700).health.phase is HealthStatus.PROGRESSING


def test_rollout_that_someone_paused_says_so(healthy: Cluster) -> None:
    assert healthy.deployment
    healthy.deployment["spec"]["paused"] = True
    assert look(healthy, 60).health.phase is HealthStatus.HEALTHY
    healthy.deployment["status"]["updatedReplicas"] = 0
    health = look(healthy, 60)
    assert health.health.phase is HealthStatus.DEGRADED
    assert "kubectl rollout resume" in health.health.reason.message


def test_pod_that_its_node_gave_up_says_why(healthy: Cluster) -> None:
    [pod] = healthy.pods.values()
    pod["status"] = {"phase": "Failed", "reason": "UnexpectedAdmissionError", "message": "Allocate failed: no GPU"}
    assert healthy.deployment
    healthy.deployment["status"] |= {"readyReplicas": 0, "availableReplicas": 0}
    health = look(healthy, 60)
    assert health.health.phase is HealthStatus.DEGRADED
    assert "UnexpectedAdmissionError: Allocate failed: no GPU" in health.health.reason.message
    assert rollout_outcome(health, START + 200, LIMITS).fault is Fault.CLUSTER


def pod_of(cluster: Cluster) -> dict[str, Any]:
    """The pod as KServe rendered it."""
    assert cluster.deployment
    found: dict[str, Any] = deepcopy(cluster.deployment["spec"]["template"]["spec"])
    return found


@pytest.mark.parametrize(
    ("change", "added", "what"),
    [
        ({}, (), ""),
        ({"image": "mirror.example/vllm/vllm-openai:v0.11.0"}, (), ""),
        ({"env": [{"name": "ADDED_TO_PODS", "value": "1"}]}, (), ""),
        ({}, ("--shutdown-timeout=60",), "arguments"),
        ({"args": ["--port=8080"]}, (), "arguments"),
        ({"command": ["vllm"]}, (), "command"),
        ({"image": "registry/vllm:2"}, (), "image"),
        ({"env": [{"name": "X", "value": "2"}]}, (), "variable X"),
    ],
)
def test_edit_of_the_runtime_is_waited_for(
    healthy: Cluster, change: dict[str, Any], added: tuple[str, ...], what: str
) -> None:
    assert healthy.deployment
    healthy.deployment["spec"]["template"]["spec"]["containers"][0]["env"] = [{"name": "X", "value": "1"}]
    pod = deepcopy(healthy.deployment["spec"]["template"]["spec"])
    pod["containers"][0] |= change
    expected = Expected(pod, added, START + 990)
    waits, never = look(healthy, 1000, expected=expected), look(healthy, 1200, expected=expected)
    if not what:
        assert (waits.health.phase, never.health.phase) == (HealthStatus.HEALTHY, HealthStatus.HEALTHY)
        return
    assert (waits.health.phase, waits.health.reason.code) == (HealthStatus.PROGRESSING, ReasonCode.NOT_YET_OBSERVED)
    assert rollout_outcome(waits, START + 1000, LIMITS).state is RolloutState.UNDER_WAY
    assert (never.health.phase, never.health.reason.code) == (HealthStatus.DEGRADED, ReasonCode.CONTROLLER_SILENT)
    assert f"{what} of git's version" in never.health.reason.message
    assert rollout_outcome(never, START + 1200, LIMITS).fault is Fault.CLUSTER


def test_edit_of_the_runtime_that_kserve_is_told_to_skip_is_told(healthy: Cluster) -> None:
    healthy.service["metadata"]["annotations"] = {"serving.kserve.io/disable-auto-update": "true"}
    pod = {"containers": [{"name": "kserve-container", "image": "registry/vllm:2"}]}
    health = look(healthy, 1000, expected=Expected(pod, (), START + 990))
    assert health.health.reason.code is ReasonCode.AUTO_UPDATE_DISABLED
    assert health.serving == 1


def test_image_that_a_registry_does_not_give_is_waited_for_a_while(healthy: Cluster) -> None:
    [pod] = healthy.pods.values()
    backs_off = {"waiting": {"reason": "ImagePullBackOff", "message": "failed to pull: connection refused"}}
    waits = {"name": "kserve-container", "image": "i", "state": backs_off}
    pod["status"] = {"conditions": [condition("PodScheduled", "True", 10)], "containerStatuses": [waits]}
    assert healthy.deployment
    healthy.deployment["status"] |= {"readyReplicas": 0, "availableReplicas": 0}
    health = look(healthy, 20)
    assert health.health.phase is HealthStatus.DEGRADED
    early = rollout_outcome(health, START + 20, LIMITS)
    assert (early.state, early.look_again_at) == (RolloutState.UNDER_WAY, START + 10 + LIMITS.patience)
    late = rollout_outcome(look(healthy, 200), START + 200, LIMITS)
    assert (late.state, late.fault) == (RolloutState.FAILED, Fault.CLUSTER)


def test_service_that_kserve_does_not_announce_degrades_in_the_end(healthy: Cluster) -> None:
    no_ingress = condition("Ready", "False Failed: cannot create ingress: domain is invalid", 5)
    healthy.service["status"]["conditions"] = [no_ingress]
    assert look(healthy, 10).health.phase is HealthStatus.PROGRESSING
    late = look(healthy, 10 + LIMITS.controller)
    assert late.health.phase is HealthStatus.DEGRADED
    assert "domain is invalid" in late.health.reason.message
    assert late.serving == 1


def test_transformer_that_crashes_degrades_the_service(healthy: Cluster) -> None:
    children = healthy.children()
    owner = {"kind": "InferenceService", "name": "m", "uid": "isvc", "controller": True}
    metadata = {"name": "m-transformer", "uid": "t", "generation": 1, "labels": {"component": "transformer"}}
    transformer = {"metadata": metadata | {"ownerReferences": [owner]}, "spec": {"replicas": 1}}
    transformer["status"] = {"observedGeneration": 1, "conditions": []}
    both = Children((*children.deployments, transformer), children.replica_sets, children.pods)
    health = service_health(healthy.service, both, START + 60, LIMITS)
    assert (health.health.phase, health.serving) == (HealthStatus.PROGRESSING, 0)
    assert "m-transformer" in health.health.reason.message


@pytest.mark.parametrize(
    ("written", "at", "phase"),
    [
        ("True", 60, HealthStatus.HEALTHY),
        ("False RevisionMissing: no revision", 60, HealthStatus.PROGRESSING),
        ("False RevisionMissing: no revision", LIMITS.loading + 60, HealthStatus.DEGRADED),
    ],
)
def test_knative_service_is_as_its_conditions_say(written: str, at: float, phase: HealthStatus) -> None:
    status = {"deploymentMode": "Knative", "conditions": [condition("Ready", written, 5)]}
    metadata = {"name": "m", "generation": 1, "creationTimestamp": stamp(0)}
    health = service_health({"metadata": metadata, "status": status}, Children(), START + at, LIMITS)
    assert health.health.phase is phase
