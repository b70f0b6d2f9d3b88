"""Whose a Deployment, a ReplicaSet, a pod and an event are."""

from __future__ import annotations

from typing import Any

from reconciler.cluster.health.children import WorkloadObjects, children_of
from reconciler.kserve.names import SERVICE_LABEL
from reconciler.model import ServiceId

Body = dict[str, Any]


def body(kind: str, name: str, owner: Body | None = None, uid: str = "", label: str = "") -> Body:
    """An object, controlled by another."""
    metadata: Body = {"namespace": "models", "name": name, "uid": uid or f"{kind} {name}"}
    metadata["labels"] = {SERVICE_LABEL: label}
    if owner:
        by = {"kind": owner["kind"], "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"]}
        metadata["ownerReferences"] = [{**by, "controller": True}]
    return {"kind": kind, "metadata": metadata}


def event(about: Body) -> Body:
    named = {key: about["metadata"][key] for key in ("namespace", "name", "uid")}
    return {"involvedObject": {"kind": about["kind"], **named}, "reason": "Odd"}


A, B = body("InferenceService", "a"), body("InferenceService", "b")
DEPLOYMENT = body("Deployment", "a-predictor", A)
WORKER = body("Deployment", "a-predictor-worker", A)
SET = body("ReplicaSet", "a-predictor-1", DEPLOYMENT)
POD = body("Pod", "a-predictor-1-x", SET, label="a")
ID = ServiceId("models", "a")


def test_child_belongs_to_the_service_at_the_top_of_its_controllers() -> None:
    found = children_of(WorkloadObjects([A, B], [DEPLOYMENT, WORKER], [SET], [POD], [event(A), event(POD)]))
    assert found[ID].deployments == (DEPLOYMENT, WORKER)
    assert (found[ID].replica_sets, found[ID].pods) == ((SET,), (POD,))
    assert len(found[ID].events) == 2
    assert not found[ServiceId("models", "b")].pods


def test_copied_labels_make_no_child() -> None:
    mine = body("Deployment", "debug", label="a")
    its_set = body("ReplicaSet", "debug-1", mine)
    its_pod = body("Pod", "debug-1-x", its_set, label="a")
    bare = body("Pod", "bare", label="a")
    found = children_of(WorkloadObjects([A], [mine], [its_set], [its_pod, bare], [event(its_pod)]))[ID]
    assert (found.deployments, found.pods, found.events) == ((), (), ())


def test_child_in_another_namespace_is_nobodys() -> None:
    pod = body("Pod", "forged", SET)
    pod["metadata"]["namespace"] = "theirs"
    told = event(pod)
    told["involvedObject"]["uid"] = A["metadata"]["uid"]
    found = children_of(WorkloadObjects([A], [DEPLOYMENT], [SET], [pod], [told]))[ID]
    assert (found.pods, found.events) == ((), ())


def test_child_of_a_service_of_that_name_that_is_gone_is_not_taken_over() -> None:
    again = body("InferenceService", "a", uid="another")
    found = children_of(WorkloadObjects([again], [DEPLOYMENT], [SET], [POD]))[ID]
    assert (found.deployments, found.pods) == ((), ())


def test_pod_that_outlives_its_deployment_still_counts() -> None:
    for sets in ([], [SET]):
        found = children_of(WorkloadObjects([A], replica_sets=sets, pods=[POD]))[ID]
        assert found.pods == (POD,)


def test_event_about_an_object_of_that_name_that_is_gone_is_left_out() -> None:
    old = body("InferenceService", "a", uid="before")
    found = children_of(WorkloadObjects([A], events=[event(old), {"regarding": {"kind": "InferenceService"}}]))[ID]
    assert found.events == ()


def test_event_with_an_odd_namespace_is_left_out() -> None:
    told = event(A)
    told["involvedObject"]["namespace"] = []
    assert children_of(WorkloadObjects([A], events=[told]))[ID].events == ()
