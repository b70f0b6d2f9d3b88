"""Git's objects where they belong on a cluster."""

from __future__ import annotations

from reconciler.cluster.placing import without_twins
from reconciler.model import DesiredObject, ObjectId, Origin, ReasonCode


def role(name: str, line: int) -> DesiredObject:
    return DesiredObject(
        ObjectId("rbac.authorization.k8s.io", "ClusterRole", "", name), Origin("a.yaml", line), {}, name
    )


def test_two_documents_of_one_cluster_wide_object_are_both_refused():
    found = without_twins((role("a", 1), role("b", 5), role("a", 9)))

    assert [one.refused and one.refused.code for one in found] == [
        ReasonCode.DUPLICATE_OBJECT,
        None,
        ReasonCode.DUPLICATE_OBJECT,
    ]
    assert "a.yaml:9" in str(found[0].refused)


def test_objects_of_their_own_names_stay_the_very_same():
    wanted = (role("a", 1), role("b", 5))
    assert without_twins(wanted) is wanted
