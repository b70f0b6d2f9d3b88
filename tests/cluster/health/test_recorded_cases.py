"""Final states of a real KServe: each failure is told with its cause, and what serves is healthy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from reconciler.cluster.health.children import WorkloadObjects, children_of
from reconciler.cluster.health.look import ServingHealth
from reconciler.cluster.health.problems import HealthLimits
from reconciler.cluster.health.rendering import unlike
from reconciler.cluster.health.service import service_health
from reconciler.kserve.names import SERVICE_LABEL
from reconciler.model import ServiceId
from tests.cluster.health.recorded import START, pod_status, stamp

CASES = yaml.load((Path(__file__).parent / "cases.yaml").read_bytes(), Loader=yaml.CSafeLoader)
each_case = pytest.mark.parametrize("case", CASES, ids=lambda each: str(each["name"]))


def service_of(case: dict[str, Any]) -> dict[str, Any]:
    """The InferenceService as the API server shows it."""
    metadata = {"namespace": "models", "name": "m", "uid": "isvc", "generation": 1, "creationTimestamp": stamp(0)}
    return {
        "kind": "InferenceService",
        "metadata": metadata | {"annotations": case["annotations"]},
        "spec": case["spec"],
        "status": case["status"],
    }


def deployment_of(recorded: dict[str, Any]) -> dict[str, Any]:
    """A Deployment with the counts that its conditions mean."""
    is_available = any(each["type"] == "Available" and each["status"] == "True" for each in recorded["conditions"])
    counts = dict.fromkeys(("replicas", "updatedReplicas"), recorded["replicas"])
    counts |= dict.fromkeys(("readyReplicas", "availableReplicas"), recorded["replicas"] if is_available else 0)
    owner = {"kind": "InferenceService", "name": "m", "uid": "isvc", "controller": True}
    metadata = {"namespace": "models", "name": recorded["name"], "uid": recorded["name"], "generation": 1}
    return {
        "metadata": metadata | {"labels": {"component": recorded["component"]}, "ownerReferences": [owner]},
        "spec": {"replicas": recorded["replicas"], "template": recorded["template"]},
        "status": {"observedGeneration": 1, "conditions": recorded["conditions"], **counts},
    }


def below(kind: str, owner: dict[str, Any], name: str) -> dict[str, Any]:
    """An object that another one controls."""
    uid = owner["metadata"]["uid"]
    by = {"kind": kind, "name": owner["metadata"]["name"], "uid": uid, "controller": True}
    found = {"namespace": "models", "name": name, "uid": f"{uid}-{name}", "ownerReferences": [by]}
    return {"metadata": found | {"creationTimestamp": stamp(0), "labels": {SERVICE_LABEL: "m"}}}


def look(case: dict[str, Any], seconds: float) -> ServingHealth:
    """The health some time after the service was created."""
    deployments = [deployment_of(each) for each in case["deployments"]]
    sets = [below("Deployment", each, "set") for each in deployments]
    pods = []
    if case["pods"] != "none":
        pods = [
            below("ReplicaSet", owner, f"pod-{at}") | {"spec": {}, "status": pod_status(case["pods"], 1)}
            for owner, deployment in zip(sets, deployments, strict=True)
            for at in range(deployment["spec"]["replicas"])
        ]
    about = {"kind": "InferenceService", "namespace": "models", "name": "m", "uid": "isvc"}
    events = [{"involvedObject": about, "lastTimestamp": stamp(1), **each} for each in case["events"]]
    service = service_of(case)
    snapshot = WorkloadObjects([service], deployments, sets, pods, events)
    children = children_of(snapshot)[ServiceId("models", "m")]
    return service_health(service, children, START + seconds, HealthLimits())


@each_case
def test_case_at_its_end_has_the_health_a_person_would_give(case: dict[str, Any]) -> None:
    health = look(case, 10)
    found = f"{health.health.phase} {health.health.reason.code}"
    assert (found, health.health.reason.message) == (case["health"], case["message"])


@each_case
def test_case_after_every_deadline_is_not_under_way_any_more(case: dict[str, Any]) -> None:
    health = look(case, 7200)
    assert f"{health.health.phase} {health.health.reason.code}" == case.get("later", case["health"])


@pytest.mark.parametrize("case", [each for each in CASES if each["deployments"]], ids=lambda each: str(each["name"]))
def test_deployment_that_kserve_made_shows_what_the_service_says(case: dict[str, Any]) -> None:
    assert unlike(service_of(case), deployment_of(case["deployments"][0])) == ""
