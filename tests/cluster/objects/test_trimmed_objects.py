"""What is kept of live objects is enough to compare them, and to say who changed them."""

from __future__ import annotations

import copy
from typing import Any

from reconciler.cluster.api.trimming import trimmed
from reconciler.cluster.objects.compare import Changed, Drifted, Unconfirmed, applied, compare
from reconciler.cluster.objects.differences import FieldChange
from reconciler.cluster.objects.ignore import NO_RULES, IgnoreRule, Rules, applied_body
from reconciler.cluster.objects.owned import managers_of
from reconciler.cluster.objects.paths import parse_path
from reconciler.model import KubeObject
from tests.cluster.objects.parts import config_map, desired, entry, fields_of_object, live, ours


def kept(there: dict[str, Any]) -> KubeObject:
    return trimmed(copy.deepcopy(there))


def secret(token: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"token": token}}


def test_trimmed_secret_that_is_as_in_git_does_not_differ() -> None:
    there = kept(live(secret("dG9rZW4="), ours(secret(""))))
    assert "dG9rZW4=" not in str(there)
    assert compare(desired(secret("dG9rZW4=")), there, None, NO_RULES) == Unconfirmed()
    changed = compare(desired(secret("bmV3")), there, None, NO_RULES)
    assert changed == Changed((FieldChange("data.token", "***", "***"),))


def test_trimmed_secret_value_that_is_ignored_is_never_applied_as_hash() -> None:
    rules = Rules((IgnoreRule((parse_path("data"),)), IgnoreRule((parse_path("data.token"),))))
    there = kept(live(secret("dG9rZW4="), ours(secret(""))))
    assert applied_body(desired(secret("bmV3")), there, rules) == secret("bmV3")
    shared = kept(live(secret("dG9rZW4="), ours(secret("")), entry("x", {"f:data": {"f:more": {}}})))
    assert applied_body(desired(secret("bmV3")), shared, rules) == secret("bmV3")


def test_trimmed_object_still_names_who_changed_it() -> None:
    before = kept(live(config_map(), ours(config_map())))
    left = fields_of_object(config_map())
    del left["f:data"]["f:a"]
    edited = config_map() | {"data": {"a": "2"}}
    edit = entry("kubectl-edit", {"f:data": {"f:a": {}}})
    after = kept(live(edited, entry("reconciler", left, "Apply"), edit, version="2"))
    found = compare(desired(config_map()), after, applied(desired(config_map()), before, NO_RULES), NO_RULES)
    assert found == Drifted((FieldChange("data.a", "2", "1", "kubectl-edit", False),), force=True)


def test_trimmed_object_keeps_no_fields_of_status_and_of_pods() -> None:
    status = entry("kubelet", {"f:status": {"f:phase": {}}}, subresource="status")
    mine = entry("kube-controller-manager", {"f:spec": {"f:containers": {}}})
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "ownerReferences": [{"controller": True}]}}
    assert [each.fields for each in managers_of(kept(live(pod, mine, status)))] == [{}, {}]
    assert [each.fields for each in managers_of(kept(live(config_map(), mine, status)))] == [mine["fieldsV1"], {}]
