"""Fields that are left to others: they bind what is compared and what is applied alike."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from reconciler.cluster.objects.compare import Changed, InSync, Unconfirmed, applied, compare
from reconciler.cluster.objects.ignore import NO_RULES, PART_OF, IgnoreRule, Rules, applied_body
from reconciler.cluster.objects.paths import parse_path
from reconciler.model import ObjectId
from tests.cluster.objects.parts import config_map, deployment, desired, entry, fields_of_object, live, ours

REPLICAS = Rules((IgnoreRule((parse_path("spec.replicas"),), kind="Deployment", group="apps"),))
HPA = entry("kube-controller-manager", {"f:spec": {"f:replicas": {}}}, subresource="scale")


def scaled(replicas: int, by: dict[str, Any]) -> dict[str, Any]:
    """Our Deployment after someone else set its replicas."""
    return live(
        deployment(replicas=replicas), entry("reconciler", fields_of_object(deployment(replicas=None)), "Apply"), by
    )


def test_ignored_field_is_applied_when_the_object_is_made() -> None:
    assert applied_body(desired(deployment()), None, REPLICAS) == deployment()


def test_ignored_field_of_another_manager_is_neither_applied_nor_seen() -> None:
    want, there = desired(deployment()), scaled(7, entry("kubectl-edit", {"f:spec": {"f:replicas": {}}}))
    assert applied_body(want, there, REPLICAS) == deployment(replicas=None)
    assert compare(want, there, None, REPLICAS) == Unconfirmed()
    assert isinstance(compare(want, there, None, NO_RULES), Changed)


def test_ignored_field_that_we_alone_own_keeps_its_live_value() -> None:
    want, there = desired(deployment(replicas=5)), live(deployment(replicas=2), ours(deployment(replicas=2)))
    assert applied_body(want, there, REPLICAS) == deployment(replicas=2)
    assert compare(want, there, None, REPLICAS) == Unconfirmed()


def test_ignored_field_that_changes_again_stays_in_sync() -> None:
    edit = entry("kubectl-edit", {"f:spec": {"f:replicas": {}}})
    want, there = desired(deployment()), scaled(7, edit)
    remembered = applied(want, there, REPLICAS)
    later = scaled(9, edit)
    later["metadata"]["resourceVersion"] = "2"
    assert isinstance(compare(want, later, remembered, REPLICAS), InSync)


def test_ignored_field_by_annotation_binds_as_by_config() -> None:
    body = deployment(**{"reconciler/ignore": "spec.replicas"})
    there = live(body | {"spec": body["spec"] | {"replicas": 7}}, HPA)
    assert "replicas" not in applied_body(desired(body), there, NO_RULES)["spec"]


def test_replicas_of_an_autoscaler_are_left_alone_by_default() -> None:
    want, there = desired(deployment()), scaled(7, HPA)
    assert applied_body(want, there, NO_RULES) == deployment(replicas=None)
    assert compare(want, there, None, NO_RULES) == Unconfirmed()


def test_replicas_of_an_autoscaler_are_taken_back_if_forced() -> None:
    body = deployment(**{"reconciler/force-conflicts": "true"})
    assert applied_body(desired(body), scaled(7, HPA), NO_RULES) == body


def test_replicas_set_by_kubectl_scale_are_drift() -> None:
    by = entry("kubectl", {"f:spec": {"f:replicas": {}}}, subresource="scale")
    assert applied_body(desired(deployment()), scaled(7, by), NO_RULES) == deployment()


def containers(body: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = body["spec"]["template"]["spec"]["containers"]
    return found


@pytest.mark.parametrize("item", ["[name=c]", "[*]"])
def test_ignored_field_of_a_list_item_by_key(item: str) -> None:
    rules = Rules((IgnoreRule((parse_path(f"spec.template.spec.containers{item}.image"),)),))
    there = live(deployment(image="a:9"))
    left = deployment()
    del containers(left)[0]["image"]
    assert applied_body(desired(deployment()), there, rules) == left
    other = Rules((IgnoreRule((parse_path("spec.template.spec.containers[name=other].image"),)),))
    assert applied_body(desired(deployment()), there, other) == deployment()


def test_ignored_item_of_others_is_taken_out_whole() -> None:
    rules = Rules((IgnoreRule((parse_path("spec.template.spec.containers[*].env[*]"),)),))
    body = deployment()
    containers(body)[0]["env"] = [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]
    assert containers(dict(applied_body(desired(body), live(body), rules)))[0]["env"] == []


def test_ignored_map_keeps_what_is_ours_and_leaves_the_rest() -> None:
    rules = Rules((IgnoreRule((parse_path("data"),)),))
    body = config_map() | {"data": {"a": "1", "b": "2", "c": "3"}}
    there = body | {"data": {"a": "7", "b": "8", "c": "9"}}
    mine = entry("reconciler", {"f:data": {"f:a": {}, "f:b": {}}}, "Apply")
    found = applied_body(desired(body), live(there, mine, entry("x", {"f:data": {"f:b": {}}})), rules)
    assert found["data"] == {"a": "7"}


def test_ignored_item_that_is_ours_stays_with_its_keys() -> None:
    rules = Rules((IgnoreRule((parse_path("spec.template.spec.containers"),)),))
    there = live(deployment(image="a:9"), entry("reconciler", _item_with_name(), "Apply"), entry("x", _all_of_item()))
    assert containers(dict(applied_body(desired(deployment()), there, rules))) == [{"name": "c"}]


def _item_with_name() -> dict[str, Any]:
    item = {'k:{"name":"c"}': {".": {}, "f:name": {}}}
    return {"f:spec": {"f:template": {"f:spec": {"f:containers": item}}}}


def _all_of_item() -> dict[str, Any]:
    found = fields_of_object(deployment())["f:spec"]["f:template"]["f:spec"]
    return {"f:spec": {"f:template": {"f:spec": found}}}


@pytest.mark.parametrize(
    ("rule", "holds"),
    [
        (IgnoreRule(()), True),
        (IgnoreRule((), kind="Deployment"), True),
        (IgnoreRule((), kind="Deployment", group="apps", namespace="default", name="web"), True),
        (IgnoreRule((), kind="StatefulSet"), False),
        (IgnoreRule((), namespace="other"), False),
        (IgnoreRule((), name="other"), False),
    ],
)
def test_ignore_rule_holds_for_what_it_names(rule: IgnoreRule, holds: bool) -> None:
    assert rule.holds_for(ObjectId("apps", "Deployment", "default", "web")) == holds


def test_applied_body_changes_nothing_of_what_git_says() -> None:
    body = deployment()
    before = copy.deepcopy(body)
    applied_body(desired(body), scaled(7, HPA), Rules(REPLICAS.ignore, "applyset-x-v1"))
    assert body == before


def test_applied_body_has_the_label_of_the_applyset() -> None:
    body = applied_body(desired(config_map()), None, Rules(applyset="applyset-x-v1"))
    assert body["metadata"]["labels"] == {PART_OF: "applyset-x-v1"}


def test_applied_body_of_a_secret_has_its_texts_as_data() -> None:
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"a": "YQ=="}}
    found = applied_body(desired(body | {"stringData": {"a": "ä", "b": "x"}}), None, NO_RULES)
    assert found == body | {"data": {"a": "w6Q=", "b": "eA=="}}


SERVICE = {
    "apiVersion": "serving.kserve.io/v1beta1",
    "kind": "InferenceService",
    "metadata": {"name": "tiny", "namespace": "default"},
    "spec": {"predictor": {}},
}


@pytest.mark.parametrize(
    ("labels", "expected"),
    [(None, {}), ({PART_OF: "applyset-x-v1"}, {PART_OF: "applyset-x-v1"}), ({PART_OF: "other"}, {PART_OF: "other"})],
)
def test_label_of_a_service_that_is_there_stays_as_it_is(labels: Any, expected: dict[str, str]) -> None:
    """KServe copies it to the pods, and would restart them for a new one."""
    there = live(SERVICE | {"metadata": SERVICE["metadata"] | ({"labels": labels} if labels else {})})
    rules = Rules(applyset="applyset-x-v1")
    assert applied_body(desired(SERVICE), there, rules)["metadata"].get("labels", {}) == expected
    assert applied_body(desired(SERVICE), None, rules)["metadata"]["labels"] == {PART_OF: "applyset-x-v1"}
