"""What is kept of a live object: all that is read, no value of a Secret, and equal parts once."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.cluster.api import trimming
from reconciler.cluster.api.trimming import LAST_APPLIED, OWN_RECORD, trimmed

values = st.recursive(
    st.none() | st.booleans() | st.sampled_from([0, 1, 0.0, 1.0, "", "1", "true"]) | st.text(max_size=100),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abcd"), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(["spec", "status", "kind", "metadata"]), values, max_size=4))
def test_object_is_kept_as_it_is_and_stays_unchanged(found: dict[str, Any]) -> None:
    before = copy.deepcopy(found)
    # JSON tells apart what Python calls equal: 1, 1.0 and true.
    assert json.dumps(trimmed(found)) == json.dumps(before)
    assert json.dumps(found) == json.dumps(before)


def test_equal_parts_of_objects_are_one() -> None:
    def pod(name: str) -> dict[str, Any]:
        return {"kind": "Pod", "metadata": {"name": name}, "spec": {"containers": [{"env": [{"name": "A"}]}]}}

    first, second = trimmed(pod("a")), trimmed(pod("b"))
    assert first["spec"] is second["spec"]
    assert first != second


def test_memory_of_parts_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trimming, "_MOST_PARTS", 100)
    for index in range(1_000):
        trimmed({"metadata": {"name": f"o-{index}"}})
    assert len(trimming._PARTS) <= trimming._MOST_PARTS


@given(st.dictionaries(st.sampled_from("ab"), st.text(min_size=1), max_size=2))
def test_values_of_secrets_and_kubectl_s_copy_are_hashes(data: dict[str, str]) -> None:
    annotations = {LAST_APPLIED: json.dumps(data), "other": "x"}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"annotations": annotations}, "data": data}
    kept = trimmed(secret)
    assert kept["data"] == {key: trimming.hashed(value) for key, value in data.items()}
    assert kept["metadata"]["annotations"] == {LAST_APPLIED: trimming.hashed(annotations[LAST_APPLIED]), "other": "x"}
    assert kept == trimmed(copy.deepcopy(secret))


def test_records_of_our_own_keep_their_data() -> None:
    data = {"record": "x"}
    record = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}, "type": OWN_RECORD, "data": dict(data)}
    other = record | {"type": "Opaque", "data": dict(data)}
    assert trimmed(record)["data"] == data
    assert trimmed(other)["data"] != data
