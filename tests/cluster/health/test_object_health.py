"""The health of objects that are not InferenceServices."""

from __future__ import annotations

from typing import Any

import pytest

from reconciler.cluster.health.objects import HealthContext, ObjectHealth, object_health
from reconciler.cluster.health.problems import HealthLimits
from tests.cluster.health.recorded import START, condition, stamp

LIMITS = HealthLimits()
GONE_BY = 7200.0


def body(kind: str, version: str, status: Any = None, spec: Any = None, **metadata: Any) -> dict[str, Any]:
    """An object that was created at 0 s."""
    made = {"name": "x", "namespace": "models", "generation": 2, "creationTimestamp": stamp(0)} | metadata
    found = {"apiVersion": version, "kind": kind, "metadata": made, "spec": spec or {}}
    return found if status is None else found | {"status": status}


def health(found: dict[str, Any], now: float = 10, **around: Any) -> str:
    """`Healthy`, or "" where the kind has no health."""
    seen: ObjectHealth | None = object_health(found, HealthContext(START + now, LIMITS, **around))
    if seen is None:
        return ""
    assert seen.health.reason.message
    return str(seen.health.phase)


DONE = {"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "readyReplicas": 2, "availableReplicas": 2}
TWO = {"replicas": 2}
LATE = condition("Progressing", "False ProgressDeadlineExceeded: too late", 1)
REFUSED = condition("ReplicaFailure", "True FailedCreate: quota", 1)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ({}, "Progressing"),
        (DONE, "Healthy"),
        (DONE | {"observedGeneration": 1}, "Progressing"),
        (DONE | {"updatedReplicas": 1}, "Progressing"),
        (DONE | {"replicas": 3}, "Progressing"),
        (DONE | {"availableReplicas": 1}, "Progressing"),
        (DONE | {"availableReplicas": 1, "conditions": [LATE]}, "Degraded"),
        (DONE | {"availableReplicas": 1, "conditions": [REFUSED]}, "Degraded"),
        (DONE | {"availableReplicas": "2"}, "Unknown"),
    ],
)
def test_deployment_is_well_when_its_rollout_is_over(status: dict[str, Any], expected: str) -> None:
    assert health(body("Deployment", "apps/v1", status, TWO)) == expected


@pytest.mark.parametrize(
    ("status", "spec", "expected"),
    [
        (DONE, TWO, "Healthy"),
        (DONE | {"readyReplicas": 1}, TWO, "Progressing"),
        (DONE | {"updatedReplicas": 1}, TWO, "Progressing"),
        (DONE | {"updatedReplicas": 1}, TWO | {"updateStrategy": {"rollingUpdate": {"partition": 1}}}, "Healthy"),
        (DONE | {"updatedReplicas": 0}, TWO | {"updateStrategy": {"type": "OnDelete"}}, "Healthy"),
    ],
)
def test_stateful_set_is_well_when_what_is_due_is_updated(status: Any, spec: Any, expected: str) -> None:
    assert health(body("StatefulSet", "apps/v1", status, spec)) == expected


@pytest.mark.parametrize(
    ("conditions", "spec", "expected"),
    [
        (["Complete"], {}, "Healthy"),
        (["Failed"], {}, "Degraded"),
        ([], {}, "Progressing"),
        ([], {"suspend": True}, "Suspended"),
    ],
)
def test_job_is_well_when_it_is_complete(conditions: list[str], spec: Any, expected: str) -> None:
    status = {"conditions": [condition(each, "True", 1) for each in conditions]}
    assert health(body("Job", "batch/v1", status, spec)) == expected


def test_claim_that_waits_for_its_pod_is_no_deadlock() -> None:
    pending = body("PersistentVolumeClaim", "v1", {"phase": "Pending"})
    assert health(pending) == "Progressing"
    assert health(pending, GONE_BY) == "Progressing"
    assert health(pending, GONE_BY, binding_mode="Immediate") == "Degraded"
    assert health(pending, events=({"reason": "ProvisioningFailed", "message": "no class"},)) == "Degraded"
    assert health(pending, GONE_BY, binding_mode="WaitForFirstConsumer") == "Healthy"
    assert health(pending, GONE_BY, events=({"reason": "WaitForFirstConsumer"},)) == "Healthy"
    assert health(body("PersistentVolumeClaim", "v1", {"phase": "Bound"})) == "Healthy"
    assert health(body("PersistentVolumeClaim", "v1", {"phase": "Lost"})) == "Degraded"


def test_load_balancer_waits_for_its_address() -> None:
    spec = {"type": "LoadBalancer"}
    assert health(body("Service", "v1", {"loadBalancer": {}}, spec)) == "Progressing"
    assert health(body("Service", "v1", {"loadBalancer": {}}, spec), GONE_BY) == "Degraded"
    assert health(body("Service", "v1", {"loadBalancer": {"ingress": [{"ip": "10.0.0.1"}]}}, spec)) == "Healthy"
    assert health(body("Service", "v1", {"loadBalancer": {}})) == "Healthy"


def test_definition_is_well_once_its_kind_can_be_used() -> None:
    kind = ("CustomResourceDefinition", "apiextensions.k8s.io/v1")
    assert health(body(*kind)) == "Progressing"
    assert health(body(*kind, {"conditions": [condition("Established", "True", 1)]})) == "Healthy"
    assert health(body(*kind, {"conditions": [condition("NamesAccepted", "False", 1)]})) == "Degraded"


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({"Accepted": "True", "ResolvedRefs": "True"}, "Healthy"),
        ({"Accepted": "True", "ResolvedRefs": "False BackendNotFound"}, "Degraded"),
        ({"Accepted": "False NotAllowedByListeners"}, "Degraded"),
    ],
)
def test_route_is_as_well_as_its_gateways_say(conditions: dict[str, str], expected: str) -> None:
    said = [condition(kind, written, 1) | {"observedGeneration": 2} for kind, written in conditions.items()]
    status = {"parents": [{"parentRef": {"name": "gw"}, "conditions": said}]}
    route = body("HTTPRoute", "gateway.networking.k8s.io/v1", status)
    assert health(route) == expected
    assert health(body("HTTPRoute", "gateway.networking.k8s.io/v1", {"parents": []})) == "Progressing"
    route["metadata"]["generation"] = 3
    assert health(route) == "Progressing"


@pytest.mark.parametrize(
    ("conditions", "now", "expected"),
    [
        ({"Ready": "True"}, 10, "Healthy"),
        ({"Ready": "False Odd: it lacks x"}, 10, "Progressing"),
        ({"Ready": "False Odd: it lacks x"}, GONE_BY, "Degraded"),
        ({"Ready": "Unknown"}, 10, "Progressing"),
        ({"Ready": "True", "Stalled": "True"}, 10, "Degraded"),
        ({"Ready": "True", "Reconciling": "True"}, 10, "Progressing"),
        ({"Available": "False"}, 10, "Progressing"),
        ({"Other": "False"}, 10, "Healthy"),
    ],
)
def test_object_with_conditions_is_as_they_say(conditions: dict[str, str], now: float, expected: str) -> None:
    status = {"conditions": [condition(kind, written, 1) for kind, written in conditions.items()]}
    assert health(body("Thing", "x.example/v1", status), now) == expected


def test_object_that_its_controller_has_not_looked_at_is_not_well() -> None:
    status = {"observedGeneration": 1, "conditions": [condition("Ready", "True", 1)]}
    assert health(body("Thing", "x.example/v1", status)) == "Progressing"
    assert health(body("Thing", "x.example/v1", status), GONE_BY) == "Degraded"


@pytest.mark.parametrize("kind", ["ServingRuntime", "ClusterServingRuntime"])
def test_kind_without_a_status_has_no_health(kind: str) -> None:
    assert health(body(kind, "serving.kserve.io/v1alpha1")) == ""
    assert health(body("Secret", "v1")) == ""


def test_object_on_its_way_out_says_what_holds_it() -> None:
    leaving = body("Thing", "x.example/v1", deletionTimestamp=stamp(1), finalizers=["x.example/held"])
    seen = object_health(leaving, HealthContext(START, LIMITS))
    assert seen
    assert (str(seen.health.phase), "x.example/held" in seen.health.reason.message) == ("Progressing", True)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ({"phase": "Succeeded"}, "Healthy"),
        ({"phase": "Failed", "reason": "Evicted"}, "Degraded"),
        ({"phase": "Running", "conditions": [condition("Ready", "True", 1)]}, "Healthy"),
        (
            {"phase": "Pending", "conditions": [condition("PodScheduled", "False Unschedulable: no room", 1)]},
            "Progressing",
        ),
    ],
)
def test_pod_is_well_when_it_is_ready(status: Any, expected: str) -> None:
    assert health(body("Pod", "v1", status)) == expected


def test_pod_that_no_node_takes_is_given_minutes() -> None:
    waits = body("Pod", "v1", {"conditions": [condition("PodScheduled", "False Unschedulable: no room", 1)]})
    assert health(waits, LIMITS.scheduling - 1) == "Progressing"
    assert health(waits, LIMITS.scheduling + 1) == "Degraded"
