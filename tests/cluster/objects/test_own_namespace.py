"""What git may not have in the namespace of our own objects."""

from __future__ import annotations

import pytest

from reconciler.cluster.objects.own_namespace import why_not_allowed
from reconciler.model import ObjectId

INVENTORY = ObjectId("", "ConfigMap", "reconciler", "reconciler-main")
LEASE = ObjectId("coordination.k8s.io", "Lease", "reconciler", "reconciler-main")
RECORD = ObjectId("", "Secret", "reconciler", "reconciler-main-0123456789abcdef")
CREDENTIALS = ObjectId("", "Secret", "reconciler", "git-credentials")
SERVICE = ObjectId("serving.kserve.io", "InferenceService", "reconciler", "thief")
NAMESPACE = ObjectId("", "Namespace", "", "reconciler")


@pytest.mark.parametrize("one", [INVENTORY, LEASE, RECORD, CREDENTIALS, SERVICE, NAMESPACE], ids=str)
def test_own_namespace_of_ours_alone_takes_nothing_from_git(one: ObjectId) -> None:
    assert "reconciler is the namespace" in why_not_allowed(one, "reconciler", False)


@pytest.mark.parametrize("one", [INVENTORY, LEASE, RECORD], ids=str)
def test_own_namespace_shared_with_services_keeps_our_names(one: ObjectId) -> None:
    assert "rename it" in why_not_allowed(one, "reconciler", True)


@pytest.mark.parametrize("one", [CREDENTIALS, SERVICE, NAMESPACE], ids=str)
def test_own_namespace_shared_with_services_takes_the_rest(one: ObjectId) -> None:
    assert why_not_allowed(one, "reconciler", True) == ""


@pytest.mark.parametrize("shared", [False, True])
def test_other_namespaces_and_cluster_wide_kinds_are_allowed(shared: bool) -> None:
    for one in (
        ObjectId("", "ConfigMap", "models", "reconciler-main"),
        ObjectId("", "Namespace", "", "models"),
        ObjectId("serving.kserve.io", "ClusterServingRuntime", "", "reconciler"),
    ):
        assert why_not_allowed(one, "reconciler", shared) == ""
