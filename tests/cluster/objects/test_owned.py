"""What is ours of a live object: its hash follows every change of it, and no other."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.cluster.objects.owned import concrete_paths, managers_of, owned_fields, projection_hash
from reconciler.cluster.objects.paths import parse_path
from tests.cluster.objects.parts import entry, live

VALUES = st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=2)
NAMES = st.sampled_from(["a", "b", "c.d/e", "ä"])
# Each leaf: its value, is it ours, is it another's.
LEAVES = st.tuples(VALUES, st.booleans(), st.booleans())
TREES = st.dictionaries(
    NAMES, st.recursive(LEAVES, lambda inner: st.dictionaries(NAMES, inner, max_size=3)), max_size=4
)


def built(tree: Any) -> tuple[Any, dict[str, Any] | None, dict[str, Any] | None]:
    """A tree of leaves → its value, our fields, the other's fields."""
    if isinstance(tree, tuple):
        value, mine, others = tree
        return value, {} if mine else None, {} if others else None
    parts = {name: built(each) for name, each in tree.items()}
    value = {name: part[0] for name, part in parts.items()}
    mine = {f"f:{name}": part[1] for name, part in parts.items() if part[1] is not None}
    others = {f"f:{name}": part[2] for name, part in parts.items() if part[2] is not None}
    return value, mine or None, others or None


def object_of(tree: dict[str, Any]) -> dict[str, Any]:
    value, mine, others = built(tree)
    body = {"apiVersion": "v1", "kind": "Thing", "metadata": {"name": "x"}, "spec": value}
    entries = [entry("reconciler", {"f:spec": mine or {}}, "Apply"), entry("another", {"f:spec": others or {}})]
    return live(body, *entries)


def changed(tree: Any, data: st.DataObject, whose: bool) -> Any:
    """The tree with new values for leaves that are ours, or for all others; and with more leaves of the other."""
    if isinstance(tree, tuple):
        value, mine, others = tree
        if mine != whose:
            return tree
        return (data.draw(VALUES.filter(lambda each: repr(each) != repr(value))), mine, others)
    return {name: changed(each, data, whose) for name, each in tree.items()}


def leaves(tree: Any) -> list[Any]:
    return [tree] if isinstance(tree, tuple) else [leaf for each in tree.values() for leaf in leaves(each)]


@given(TREES, st.data())
def test_projection_hash_ignores_changes_of_other_managers(tree: dict[str, Any], data: st.DataObject) -> None:
    after = changed(tree, data, whose=False)
    after["added"] = (data.draw(VALUES), False, True)
    assert projection_hash(object_of(after)) == projection_hash(object_of(after | {"added": ("", False, True)}))
    if any(mine for _, mine, _ in leaves(tree)):
        assert projection_hash(object_of(after)) == projection_hash(object_of(tree))


@given(TREES, st.data())
def test_projection_hash_follows_each_change_of_what_is_ours(tree: dict[str, Any], data: st.DataObject) -> None:
    after = changed(tree, data, whose=True)
    is_changed = any(mine for _, mine, _ in leaves(tree))
    assert (projection_hash(object_of(after)) != projection_hash(object_of(tree))) == is_changed


@given(TREES, st.data())
def test_projection_hash_follows_a_field_that_is_taken(tree: dict[str, Any], data: st.DataObject) -> None:
    after = copy.deepcopy(tree) | {"a": ("x", False, True)}
    before = copy.deepcopy(tree) | {"a": ("x", True, False)}
    assert projection_hash(object_of(after)) != projection_hash(object_of(before))


@given(TREES, VALUES, VALUES)
def test_projection_hash_leaves_out_what_is_ignored(tree: dict[str, Any], one: Any, other: Any) -> None:
    before, after = object_of(tree | {"a": (one, True, False)}), object_of(tree | {"a": (other, False, True)})
    ignored = [parse_path("spec.a")]
    if any(mine for name, each in tree.items() if name != "a" for _, mine, _ in leaves(each)):
        assert projection_hash(before, ignored) == projection_hash(after, ignored)


def test_projection_hash_of_what_is_not_ours_is_empty() -> None:
    body = {"apiVersion": "v1", "kind": "Thing", "metadata": {"name": "x"}}
    assert projection_hash(live(body, entry("another", {"f:spec": {}}, "Apply"))) == ""
    assert owned_fields(live(body, entry("reconciler", {"f:spec": {}}, "Update"))) is None
    assert owned_fields(live(body, entry("reconciler", {"f:status": {}}, "Apply", "status"))) is None


LISTS = {
    "containers": [{"name": "c", "image": "a:1"}, {"name": "d", "image": "b:1"}],
    "finalizers": ["x", "y"],
}


@pytest.mark.parametrize(
    ("fields", "change", "seen"),
    [
        ({"f:containers": {'k:{"name":"c"}': {"f:image": {}}}}, {"containers": [{"name": "c", "image": "a:2"}]}, True),
        ({"f:containers": {'k:{"name":"c"}': {"f:image": {}}}}, {"containers": LISTS["containers"][:1]}, False),
        ({"f:containers": {'k:{"name":"c"}': {"f:image": {}}}}, {"containers": LISTS["containers"][::-1]}, False),
        ({"f:containers": {'k:{"name":"c"}': {"f:image": {}}}}, {"containers": []}, True),
        ({"f:finalizers": {'v:"x"': {}}}, {"finalizers": ["z", "x"]}, False),
        ({"f:finalizers": {'v:"x"': {}}}, {"finalizers": ["y"]}, True),
        ({"f:finalizers": {"i:0": {}}}, {"finalizers": ["x", "z"]}, False),
        ({"f:finalizers": {"i:1": {}}}, {"finalizers": ["x"]}, True),
    ],
)
def test_projection_hash_of_lists_follows_our_items(fields, change, seen: bool) -> None:
    def made(spec: Any) -> dict[str, Any]:
        body = {"apiVersion": "v1", "kind": "Thing", "metadata": {"name": "x"}, "spec": spec}
        return live(body, entry("reconciler", {"f:spec": fields}, "Apply"))

    assert (projection_hash(made(LISTS)) != projection_hash(made(LISTS | change))) == seen


def test_managers_of_entries_whose_fields_are_not_kept_own_none() -> None:
    body = {"apiVersion": "v1", "kind": "Thing", "metadata": {"name": "x"}}
    found = managers_of(live(body, {"manager": "x", "operation": "Update"}, {"fieldsV1": {"f:spec": {}}}))
    assert [(each.name, each.fields) for each in found] == [("x", {})]


def test_concrete_paths_name_fields_and_lists_as_a_whole() -> None:
    fields = {"f:spec": {"f:replicas": {}, "f:items": {'k:{"name":"x"}': {}}}}
    assert sorted(concrete_paths(fields)) == [("spec", "items"), ("spec", "replicas")]
