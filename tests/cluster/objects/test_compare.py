"""What is to be done about one object: git, the live object and what is remembered of the last apply."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from typing import Any

import pytest

from reconciler.cluster.objects.compare import (
    Applied,
    Changed,
    Drifted,
    InSync,
    Missing,
    TakeOver,
    Terminating,
    Unconfirmed,
    applied,
    compare,
    seen_again,
)
from reconciler.cluster.objects.differences import FieldChange, differences
from reconciler.cluster.objects.ignore import NO_RULES, Rules
from tests.cluster.objects.parts import config_map, deployment, desired, entry, fields_of_object, live, ours


def taken(body: dict[str, Any], path: list[Any], value: Any, by: dict[str, Any]) -> dict[str, Any]:
    """Our live object after another manager changed a field of it."""
    mine = copy.deepcopy(body)
    *above, last = path
    node = mine
    for step in above:
        node = node[step]
    node[last] = value
    left = fields_of_object(body)
    fields = left
    for step in [f"f:{step}" if isinstance(step, str) else 'k:{"name":"c"}' for step in above]:
        fields = fields[step]
    del fields[f"f:{last}"]
    return live(mine, entry("reconciler", left, "Apply"), by, version="2")


EDIT = {"f:spec": {"f:replicas": {}}}


def test_compare_object_that_is_not_there_is_missing() -> None:
    assert compare(desired(config_map()), None, None, NO_RULES) == Missing()


def test_compare_after_apply_is_in_sync_and_stays_so() -> None:
    want, there = desired(deployment()), live(deployment(), ours(deployment()))
    remembered = applied(want, there, NO_RULES)
    assert compare(want, there, remembered, NO_RULES) == InSync(remembered)
    found = compare(want, there | {"metadata": there["metadata"] | {"resourceVersion": "9"}}, remembered, NO_RULES)
    assert isinstance(found, InSync)
    assert found.applied.resource_version == "9"
    assert found.applied.projection == remembered.projection


def test_seen_again_is_as_now_where_only_others_changed_it() -> None:
    want, there = desired(deployment()), live(deployment(), ours(deployment()))
    known = applied(want, there, NO_RULES)
    assert seen_again(known, want, there, NO_RULES) is known
    status = live(deployment() | {"status": {"replicas": 1}}, ours(deployment()), version="2")
    assert seen_again(known, want, status, NO_RULES) == replace(known, resource_version="2")
    edited = taken(deployment(), ["spec", "replicas"], 5, entry("kubectl-edit", EDIT))
    assert seen_again(known, want, edited, NO_RULES) is known
    another = live(deployment(), ours(deployment()), uid="u2", version="2")
    assert seen_again(known, want, another, NO_RULES) is known


def test_compare_drift_names_manager_and_field() -> None:
    want, before = desired(deployment()), live(deployment(), ours(deployment()))
    after = taken(deployment(), ["spec", "replicas"], 5, entry("kubectl-edit", EDIT))
    found = compare(want, after, applied(want, before, NO_RULES), NO_RULES)
    assert found == Drifted((FieldChange("spec.replicas", 5, 1, "kubectl-edit", False),), force=True)


def test_compare_drift_is_not_forced_from_who_applies() -> None:
    want, before = desired(deployment()), live(deployment(), ours(deployment()))
    after = taken(deployment(), ["spec", "replicas"], 5, entry("argocd-controller", EDIT, "Apply"))
    found = compare(want, after, applied(want, before, NO_RULES), NO_RULES)
    assert found == Drifted((FieldChange("spec.replicas", 5, 1, "argocd-controller", True),), force=False)


def test_compare_drift_is_known_from_the_inventory_alone() -> None:
    want, before = desired(deployment()), live(deployment(), ours(deployment()))
    known = Applied(applied(want, before, NO_RULES).body, "u1")
    after = taken(deployment(), ["spec", "replicas"], 5, entry("kubectl-edit", EDIT))
    assert isinstance(compare(want, after, known, NO_RULES), Drifted)
    assert compare(want, before, known, NO_RULES) == Unconfirmed()


def test_compare_field_taken_with_the_same_value_is_unconfirmed() -> None:
    want, before = desired(deployment()), live(deployment(), ours(deployment()))
    after = taken(deployment(), ["spec", "replicas"], 1, entry("kubectl-edit", EDIT))
    assert compare(want, after, applied(want, before, NO_RULES), NO_RULES) == Unconfirmed()


def test_compare_removed_field_is_drift() -> None:
    want, before = desired(config_map(a="1")), live(config_map(a="1"), ours(config_map(a="1")))
    after = live(config_map(), ours(config_map()), version="2")
    found = compare(want, after, applied(want, before, NO_RULES), NO_RULES)
    assert found == Drifted((FieldChange("metadata.annotations.a", None, "1"),), force=True)


def test_compare_change_in_git_names_old_and_new() -> None:
    before, there = desired(deployment()), live(deployment(), ours(deployment()))
    remembered = applied(before, there, NO_RULES)
    found = compare(desired(deployment(image="a:2")), there, remembered, NO_RULES)
    assert found == Changed((FieldChange("spec.template.spec.containers.0.image", "a:1", "a:2"),))
    assert found.conflicts == ()


def test_compare_field_removed_in_git_is_a_change() -> None:
    before, there = desired(deployment()), live(deployment(), ours(deployment()))
    found = compare(desired(deployment(replicas=None)), there, applied(before, there, NO_RULES), NO_RULES)
    assert found == Changed((FieldChange("spec.replicas", 1, None),))


def test_compare_item_removed_in_git_is_a_change() -> None:
    body = deployment()
    containers = body["spec"]["template"]["spec"]["containers"]
    containers.insert(0, {"name": "old", "image": "x"})
    there = live(body, ours(body))
    found = compare(desired(deployment()), there, applied(desired(body), there, NO_RULES), NO_RULES)
    assert found == Changed((FieldChange("spec.template.spec.containers[name=old]", containers[0], None),))


def test_compare_item_of_another_manager_is_no_difference() -> None:
    body = deployment()
    there = copy.deepcopy(body)
    there["spec"]["template"]["spec"]["containers"].insert(0, {"name": "sidecar", "image": "x"})
    assert differences(body, live(there, ours(body))) == ()


def test_compare_without_memory_decides_by_values() -> None:
    there = live(deployment(), ours(deployment()))
    assert compare(desired(deployment()), there, None, NO_RULES) == Unconfirmed()
    assert isinstance(compare(desired(deployment(image="a:2")), there, None, NO_RULES), Changed)


def test_compare_object_of_argo_cd_is_a_take_over() -> None:
    tracked = config_map(**{"argocd.argoproj.io/tracking-id": "models:/ConfigMap:default/web"})
    there = live(tracked, entry("argocd-controller", fields_of_object(tracked), "Apply"))
    found = compare(desired(config_map()), there, None, NO_RULES)
    mark = FieldChange("metadata.annotations.argocd.argoproj.io/tracking-id", "models:/ConfigMap:default/web", None)
    assert found == TakeOver(("Argo CD application models",), (mark,))


def test_compare_another_object_of_that_name_is_a_take_over() -> None:
    want, before = desired(config_map()), live(config_map(), ours(config_map()))
    again = live(config_map(), entry("kubectl-create", {"f:data": {}}), uid="u2")
    assert compare(want, again, applied(want, before, NO_RULES), NO_RULES) == TakeOver(("kubectl create",), ())


def test_compare_member_whose_managers_were_wiped_is_no_take_over() -> None:
    there = live(deployment(), entry("kubectl", {"f:spec": {"f:replicas": {}}}))
    assert compare(desired(deployment()), there, None, NO_RULES, is_member=True) == Unconfirmed()


def test_compare_object_being_deleted_is_terminating() -> None:
    there = live(config_map(), ours(config_map()))
    ending = there["metadata"] | {"deletionTimestamp": "2026-11-29T17:00:00Z", "finalizers": ["x/y"]}
    found = compare(desired(config_map()), there | {"metadata": ending}, None, NO_RULES)
    assert found == Terminating("2026-11-29T17:00:00Z", ("x/y",))


def test_compare_rules_that_changed_are_a_change() -> None:
    want, there = desired(config_map()), live(config_map(), ours(config_map()))
    found = compare(want, there, applied(want, there, NO_RULES), Rules(applyset="applyset-x-v1"))
    change = FieldChange("metadata.labels", None, {"applyset.kubernetes.io/part-of": "applyset-x-v1"})
    assert found == Changed((change,))


@pytest.mark.parametrize(
    ("git", "live_value"),
    [
        ({"limits": {"cpu": "1000m", "memory": "1024Mi"}}, {"limits": {"cpu": "1", "memory": "1Gi"}}),
        ({"limits": {"cpu": 1}}, {"limits": {"cpu": "1"}}),
        ({"sizeLimit": "1024Mi"}, {"sizeLimit": "1Gi"}),
        ({"a": None, "b": [], "c": {}, "d": "", "e": 0, "f": False}, {}),
        ({"a": 1.0}, {"a": 1}),
        ({"a": {"b": None}}, {"a": {"c": "default"}}),
    ],
)
def test_differences_of_equal_meaning_are_none(git: Any, live_value: Any) -> None:
    body = {"apiVersion": "v1", "kind": "Thing", "metadata": {"name": "x"}, "spec": git}
    assert differences(body, live(body | {"spec": live_value}, entry("reconciler", {}, "Apply"))) == ()


@pytest.mark.parametrize(
    ("git", "live_value"),
    [("1", "1.0"), (1, "1"), (True, 1), (False, 0), (0, 1), ("", "x"), (["a"], ["a", "b"]), (["a", "b"], ["b", "a"])],
)
def test_differences_of_other_meaning_are_seen(git: Any, live_value: Any) -> None:
    body = {"apiVersion": "v1", "kind": "Thing", "metadata": {"name": "x"}, "spec": {"a": git}}
    [change] = differences(body, live(body | {"spec": {"a": live_value}}, ours(body)))[:1]
    assert change.path.startswith("spec.a")


def test_differences_of_list_items_name_the_argument() -> None:
    after = copy.deepcopy(deployment())
    after["spec"]["template"]["spec"]["containers"][0]["args"] = ["--port", "9090"]
    found = differences(after, live(deployment(), ours(deployment())))
    assert found == (FieldChange("spec.template.spec.containers.0.args.1", "8080", "9090"),)


def secret(**data: str) -> dict[str, Any]:
    metadata = {"name": "s", "namespace": "default", "labels": {"app": "a"}}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data}


def test_compare_secret_shows_no_value() -> None:
    there = live(secret(token="b2xk"), ours(secret(token="b2xk")))
    after = secret(token="bmV3", more="bW9yZQ==")
    after["metadata"] = after["metadata"] | {"labels": {"app": "b"}}
    found = compare(desired(after), there, None, NO_RULES)
    assert found == Changed(
        (
            FieldChange("metadata.labels.app", "a", "b"),
            FieldChange("data.token", "***", "***"),
            FieldChange("data.more", None, "***"),
        )
    )


def with_container(**fields: Any) -> dict[str, Any]:
    body = copy.deepcopy(deployment())
    body["spec"]["template"]["spec"]["containers"][0] |= fields
    return body


@pytest.mark.parametrize(
    ("field", "before", "after", "told"),
    [
        ("env", [{"name": "HF_TOKEN", "value": "old"}], [{"name": "HF_TOKEN", "value": "new"}], ["env.0.value"]),
        ("env", [{"name": "A", "value": "1"}], [{"name": "HF_TOKEN", "value": "new"}], ["env.0"]),
        ("args", ["--api-key", "old"], ["--api-key", "new"], ["args.1"]),
        ("args", ["--api-key=old"], ["--api-key=new"], ["args.0"]),
        ("args", ["--api-key", "old"], ["--api-key", "new", "--x"], ["args"]),
    ],
)
def test_compare_shows_no_value_that_is_named_like_a_secret(field: str, before: Any, after: Any, told: Any) -> None:
    there = with_container(**{field: before})
    found = compare(desired(with_container(**{field: after})), live(there, ours(there)), None, NO_RULES)
    assert isinstance(found, Changed)
    assert told[0] in [each.path.removeprefix("spec.template.spec.containers.0.") for each in found.changes]
    assert not {"old", "new"} & set(re.findall(r"\w+", str(found)))
    assert "***" in str(found)


def test_compare_shows_references_to_secrets_and_other_values() -> None:
    there = with_container(args=["--max-num-batched-tokens=1"], envFrom=[{"secretRef": {"name": "a"}}])
    after = with_container(args=["--max-num-batched-tokens=2"], envFrom=[{"secretRef": {"name": "b"}}])
    found = compare(desired(after), live(there, ours(there)), None, NO_RULES)
    assert "***" not in str(found)


def test_compare_config_map_shows_no_value_that_is_named_like_a_secret() -> None:
    body = config_map() | {"data": {"password": "old"}}
    found = compare(desired(body | {"data": {"password": "new"}}), live(body, ours(body)), None, NO_RULES)
    assert found == Changed((FieldChange("data.password", "***", "***"),))
