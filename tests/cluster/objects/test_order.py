"""The order of applying and deleting respects waves, kinds and dependencies."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from reconciler.cluster.objects.order import Order, Ordered, apply_order, deletion_order
from reconciler.model import ObjectId, Origin, ReasonCode

KINDS = [
    ("", "Namespace"),
    ("apiextensions.k8s.io", "CustomResourceDefinition"),
    ("", "ServiceAccount"),
    ("", "ConfigMap"),
    ("", "PersistentVolumeClaim"),
    ("serving.kserve.io", "ServingRuntime"),
    ("serving.kserve.io", "InferenceService"),
    ("gateway.networking.k8s.io", "HTTPRoute"),
    ("example.com", "Unknown"),
]
IDS = st.builds(lambda kind, name: ObjectId(*kind, "default", name), st.sampled_from(KINDS), st.sampled_from("abc"))
OBJECTS = st.lists(
    st.builds(Ordered, IDS, st.integers(-1, 1), st.lists(IDS, max_size=2).map(tuple)),
    max_size=12,
    unique_by=lambda each: each.id,
)


def turns(order: Order) -> dict[ObjectId, int]:
    return {one: number for number, group in enumerate(order.waves) for one in group}


@given(OBJECTS)
def test_apply_order_holds_every_object_once_or_says_why_not(objects: list[Ordered]) -> None:
    order = apply_order(objects)
    placed = [one for group in order.waves for one in group]
    assert sorted([*placed, *order.blocked]) == sorted(each.id for each in objects)


@given(OBJECTS)
def test_apply_order_respects_waves_and_dependencies(objects: list[Ordered]) -> None:
    turn = turns(apply_order(objects))
    for one in objects:
        if one.id in turn:
            assert all(turn[each] < turn[one.id] for each in one.depends_on)
            assert all(turn[one.id] < turn[each.id] for each in objects if each.id in turn and each.wave > one.wave)


@given(OBJECTS)
def test_apply_order_goes_by_kind_where_nothing_else_is_said(objects: list[Ordered]) -> None:
    turn = turns(apply_order([Ordered(each.id) for each in objects]))
    kinds = [(one.group, one.kind) for one in sorted(turn, key=turn.__getitem__)]
    assert [KINDS.index(kind) for kind in kinds] == sorted(KINDS.index(kind) for kind in kinds)


@given(OBJECTS, st.randoms())
def test_apply_order_is_the_same_whatever_the_order_of_git(objects: list[Ordered], random) -> None:
    shuffled = list(objects)
    random.shuffle(shuffled)
    one, other = apply_order(objects), apply_order(shuffled)
    assert (one.waves, set(one.blocked)) == (other.waves, set(other.blocked))


@given(OBJECTS)
def test_apply_order_blocks_nothing_without_a_cause(objects: list[Ordered]) -> None:
    blocked = apply_order(objects).blocked
    known = {each.id: each for each in objects}
    for one in blocked:
        wants = known[one].depends_on
        assert any(each not in known or each in blocked or known[each].wave > known[one].wave for each in wants)


@given(OBJECTS)
def test_deletion_order_deletes_all_and_dependents_first(objects: list[Ordered]) -> None:
    order = deletion_order(objects)
    turn = turns(Order(order))
    assert sorted(turn) == sorted(each.id for each in objects)
    if not apply_order(objects).blocked:
        assert all(turn[one.id] < turn[each] for one in objects for each in one.depends_on)


def config(name: str, *depends_on: str) -> Ordered:
    wanted = tuple(ObjectId("", "ConfigMap", "default", each) for each in depends_on)
    return Ordered(ObjectId("", "ConfigMap", "default", name), 0, wanted, Origin(f"{name}.yaml", 3))


def test_apply_order_names_the_whole_cycle() -> None:
    blocked = apply_order([config("a", "b"), config("b", "c"), config("c", "a"), config("d", "a")]).blocked
    reason = blocked[config("b").id]
    assert reason.code is ReasonCode.INVALID_DEPENDENCY
    assert reason.origin == Origin("b.yaml", 3)
    assert "ConfigMap default/a → ConfigMap default/b → ConfigMap default/c → ConfigMap default/a" in reason.message
    assert "depends on ConfigMap default/a, which cannot be applied itself" in blocked[config("d").id].message


def test_apply_order_follows_a_chain_of_any_length() -> None:
    chain = [config(f"n{number}", f"n{number + 1}") for number in range(1_100)] + [config("n1100")]
    assert [group[0].name for group in apply_order(chain).waves[:2]] == ["n1100", "n1099"]


def test_apply_order_dependency_outweighs_the_kind() -> None:
    deployment = ObjectId("apps", "Deployment", "default", "db")
    order = apply_order([Ordered(ObjectId("", "ConfigMap", "default", "a"), 0, (deployment,)), Ordered(deployment)])
    assert [one.kind for group in order.waves for one in group] == ["Deployment", "ConfigMap"]
