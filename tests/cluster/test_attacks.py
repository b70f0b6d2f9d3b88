"""What whoever may push, or owns one namespace of the cluster, tries."""

from __future__ import annotations

from typing import Any

import pytest

from reconciler.cluster.objects.ignore import PART_OF
from reconciler.cluster.objects.inventory import ClusterInventory, Member
from reconciler.cluster.preflight_job import PREFLIGHT, is_pod_of
from reconciler.cluster.rollout.batches import COPY_OF
from reconciler.model import ApplyObject, DeleteObject, ObjectChange, ObjectId, ReasonCode
from tests.cluster.seen import git_object, kube_object, plan_of

KSERVE = "serving.kserve.io"


def test_inventory_in_git_is_not_applied() -> None:
    forged = git_object("ConfigMap", "reconciler-main", "reconciler", data={"members": "all of it"})
    plan = plan_of(forged, git_object("ConfigMap", "ordinary"))
    assert [each.object.name for each in plan.actions if isinstance(each, ApplyObject)] == ["ordinary"]
    said = plan.objects[forged.id]
    assert said.change is ObjectChange.KEEP
    assert [each.code for each in said.reasons] == [ReasonCode.OWN_NAMESPACE]


def test_pod_with_our_preflights_label_is_not_its_jobs() -> None:
    job = kube_object("Job", "preflight-1", group="batch")
    ours, label = {"uid": "uid-preflight-1", "controller": True}, {"labels": {PREFLIGHT: "1"}}
    assert is_pod_of(kube_object("Pod", "real", metadata={**label, "ownerReferences": [ours]}), job)
    assert not is_pod_of(kube_object("Pod", "forged", metadata=label), job)
    assert not is_pod_of(kube_object("Pod", "far", "theirs", metadata={**label, "ownerReferences": [ours]}), job)


def test_copy_of_a_runtime_that_others_made_is_not_deleted() -> None:
    ours = ClusterInventory("reconciler-main", "reconciler", "main").applyset
    copies = (
        _copy("stale", {COPY_OF: "vllm", PART_OF: ours}, "reconciler"),
        _copy("labelled", {COPY_OF: "vllm"}, "kubectl"),
        _copy("forged", {COPY_OF: "vllm", PART_OF: ours}, "kubectl"),
        _copy("of-another-target", {COPY_OF: "vllm", PART_OF: "applyset-other-v1"}, "reconciler"),
    )
    service = kube_object("InferenceService", "llama", group=KSERVE)
    plan = plan_of(live=(*copies, service))
    assert [each.object.name for each in plan.actions if isinstance(each, DeleteObject)] == ["stale"]


def test_runtime_in_git_that_is_labelled_as_a_copy_is_not_deleted() -> None:
    ours = ClusterInventory("reconciler-main", "reconciler", "main").applyset
    live = _copy("vllm", {COPY_OF: "other", PART_OF: ours}, "reconciler")
    git = git_object("ServingRuntime", "vllm", group=KSERVE, metadata={"labels": {COPY_OF: "other"}}, spec={})
    assert not [each for each in plan_of(git, live=(live,)).actions if isinstance(each, DeleteObject)]


def _copy(name: str, labels: dict[str, str], manager: str) -> dict[str, Any]:
    entry = {"manager": manager, "operation": "Apply", "fieldsV1": {"f:spec": {}}}
    metadata = {"labels": labels, "managedFields": [entry]}
    return kube_object("ServingRuntime", name, group=KSERVE, metadata=metadata, spec={})


@pytest.mark.parametrize("labels", [{}, {PART_OF: "applyset-other-v1"}], ids=["unlabelled", "another target's"])
def test_object_applied_under_our_name_by_others_is_not_taken_over(labels: dict[str, str]) -> None:
    """A push must not reach what another target of the cluster has."""
    theirs = _applied(kube_object("ConfigMap", "theirs", metadata={"labels": labels}, data={"x": "1"}))
    plan = plan_of(git_object("ConfigMap", "theirs", data={"x": "2"}), live=(theirs,))
    assert plan.actions == ()
    (said,) = plan.objects.values()
    assert [each.code for each in said.reasons] == [ReasonCode.NOT_OURS]


def test_object_of_ours_is_ours_though_its_inventory_was_lost() -> None:
    ours = ClusterInventory("reconciler-main", "reconciler", "main").applyset
    live = _applied(kube_object("ConfigMap", "ours", metadata={"labels": {PART_OF: ours}}, data={"x": "1"}))
    plan = plan_of(git_object("ConfigMap", "ours", data={"x": "2"}), live=(live,))
    assert [each.object.name for each in plan.actions if isinstance(each, ApplyObject)] == ["ours"]


def _applied(live: dict[str, Any]) -> dict[str, Any]:
    entry = {"manager": "reconciler", "operation": "Apply", "apiVersion": "v1", "fieldsV1": {"f:data": {"f:x": {}}}}
    return live | {"metadata": live["metadata"] | {"managedFields": [entry]}}


@pytest.mark.parametrize(("there", "in_git"), [("models", ""), ("", "models")])
def test_object_whose_kind_is_not_known_for_a_moment_is_not_pruned(there: str, in_git: str) -> None:
    """The API server does not say whether the kind has a namespace, and git says otherwise."""
    live = _applied(kube_object("Widget", "w", there, group="example.com"))
    one = ObjectId("example.com", "Widget", there, "w")
    git = git_object("Widget", "w", in_git, "example.com")
    plan = plan_of(git, live=(live,), members={one: Member("uid-w", "w.yaml", "body")})
    assert not [each for each in plan.actions if isinstance(each, DeleteObject)]

    without = plan_of(live=(live,), members={one: Member("uid-w", "w.yaml", "body")})
    assert [each.object for each in without.actions if isinstance(each, DeleteObject)] == [one]
