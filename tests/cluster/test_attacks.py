"""What whoever may push, or owns one namespace of the cluster, tries."""

from __future__ import annotations

from reconciler.model import ApplyObject, ObjectChange, ReasonCode
from tests.cluster.seen import git_object, plan_of


def test_inventory_in_git_is_not_applied() -> None:
    forged = git_object("ConfigMap", "reconciler-main", "reconciler", data={"members": "all of it"})
    plan = plan_of(forged, git_object("ConfigMap", "ordinary"))
    assert [each.object.name for each in plan.actions if isinstance(each, ApplyObject)] == ["ordinary"]
    said = plan.objects[forged.id]
    assert said.change is ObjectChange.KEEP
    assert [each.code for each in said.reasons] == [ReasonCode.OWN_NAMESPACE]
