"""Which pods a scheduler would put on a node; every verdict here is also that of Kubernetes' own code."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.kserve.scheduling import Malformed, Node, Taint, misfits, tolerates, without_effect

LABELS = {"disk": "ssd", "empty": "", "gpus": "8", "word": "eight", "big": "9223372036854775808"}
NODE = Node("box", LABELS)
GPU = Taint("nvidia.com/gpu", "NoSchedule")


def fits(pod: dict[str, Any], node: Node = NODE) -> bool:
    return not list(misfits(pod, node))


def expression(key: str, operator: str, *values: str) -> dict[str, Any]:
    return {"key": key, "operator": operator} | ({"values": list(values)} if values else {})


def affinity(*terms: dict[str, Any]) -> dict[str, Any]:
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": list(terms)}}
    return {"affinity": {"nodeAffinity": required}}


def needs(*expressions: dict[str, Any]) -> dict[str, Any]:
    return affinity({"matchExpressions": list(expressions)})


def named(operator: str, *values: str) -> dict[str, Any]:
    return {"matchFields": [expression("metadata.name", operator, *values)]}


@pytest.mark.parametrize(
    ("rule", "pod", "expected"),
    [
        ("a pod without rules fits everywhere", {}, True),
        ("empty rules are no rules", {"nodeSelector": {}, "affinity": {"nodeAffinity": {}}, "tolerations": []}, True),
        ("a label with that value fits", {"nodeSelector": {"disk": "ssd"}}, True),
        ("a label with another value does not", {"nodeSelector": {"disk": "hdd"}}, False),
        ("a missing label is not an empty one", {"nodeSelector": {"zone": ""}}, False),
        ("every label of a selector counts", {"nodeSelector": {"disk": "ssd", "zone": "a"}}, False),
        ("In finds one of its values", needs(expression("disk", "In", "hdd", "ssd")), True),
        ("In needs the label", needs(expression("zone", "In", "")), False),
        ("NotIn refuses its values", needs(expression("disk", "NotIn", "ssd")), False),
        ("NotIn takes a node without the label", needs(expression("zone", "NotIn", "a")), True),
        ("Exists asks for the key alone", needs(expression("empty", "Exists")), True),
        ("DoesNotExist refuses also an empty value", needs(expression("empty", "DoesNotExist")), False),
        ("Gt is strict", needs(expression("gpus", "Gt", "8")), False),
        ("Gt compares numbers, not text", needs(expression("gpus", "Lt", "10")), True),
        ("Lt needs the label", needs(expression("zone", "Lt", "10")), False),
        ("a label that is no number is neither more nor less", needs(expression("word", "Gt", "0")), False),
        ("a label beyond 64 bits is no number", needs(expression("big", "Gt", "0")), False),
        ("leading zeros do not matter", needs(expression("gpus", "Gt", "007")), True),
        ("expressions of a term are ANDed", needs(expression("disk", "Exists"), expression("zone", "Exists")), False),
        (
            "terms are ORed",
            affinity(
                {"matchExpressions": [expression("zone", "Exists")]},
                {"matchExpressions": [expression("disk", "Exists")]},
            ),
            True,
        ),
        ("no term matches nothing", affinity(), False),
        ("an empty term matches nothing", affinity({}), False),
        ("an empty term spoils no other", affinity({}, {"matchExpressions": [expression("disk", "Exists")]}), True),
        ("a term with empty lists is empty", affinity({"matchExpressions": [], "matchFields": []}), False),
        ("a field names the node", affinity(named("In", "box")), True),
        ("a field names another node", affinity(named("In", "other")), False),
        ("a field excludes a node", affinity(named("NotIn", "box")), False),
        (
            "fields and expressions are ANDed",
            affinity(named("In", "box") | {"matchExpressions": [expression("zone", "Exists")]}),
            False,
        ),
        ("selector and affinity both count", needs(expression("disk", "Exists")) | {"nodeSelector": {"a": "b"}}, False),
        ("nodeName names this node", {"nodeName": "box"}, True),
        ("nodeName names another", {"nodeName": "other"}, False),
    ],
)
def test_rules_of_labels(rule: str, pod: dict[str, Any], expected: bool) -> None:
    assert fits(pod) is expected, rule


@pytest.mark.parametrize(
    ("rule", "toleration", "expected"),
    [
        ("Exists takes any value", {"key": "dedicated", "operator": "Exists"}, True),
        ("Equal needs the value", {"key": "dedicated", "operator": "Equal", "value": "chat"}, True),
        ("another value is not tolerated", {"key": "dedicated", "operator": "Equal", "value": "code"}, False),
        ("without an operator it is Equal", {"key": "dedicated", "value": "chat"}, True),
        ("without a value it is the empty one", {"key": "dedicated"}, False),
        ("another key is not tolerated", {"key": "other", "operator": "Exists"}, False),
        ("an empty key with Exists takes everything", {"operator": "Exists"}, True),
        ("an empty key with Exists keeps to its effect", {"operator": "Exists", "effect": "NoExecute"}, False),
        ("that effect", {"key": "dedicated", "operator": "Exists", "effect": "NoSchedule"}, True),
        ("an empty effect is every effect", {"key": "dedicated", "operator": "Exists", "effect": ""}, True),
        ("another effect is not tolerated", {"key": "dedicated", "operator": "Exists", "effect": "NoExecute"}, False),
        ("Gt and Lt are off, as in clusters", {"key": "dedicated", "operator": "Gt", "value": "1"}, False),
    ],
)
def test_rules_of_tolerations(rule: str, toleration: dict[str, Any], expected: bool) -> None:
    taint = Taint("dedicated", "NoSchedule", "chat")
    assert tolerates(toleration, taint) is expected, rule
    assert fits({"tolerations": [toleration]}, Node("box", {}, (taint,))) is expected, rule


def test_noexecute_keeps_away_and_prefernoschedule_does_not() -> None:
    assert not fits({}, Node("box", {}, (Taint("a", "NoExecute"),)))
    assert fits({}, Node("box", {}, (Taint("a", "PreferNoSchedule"),)))


def test_pod_put_on_a_node_by_name_passes_no_scheduler() -> None:
    assert fits({"nodeName": "box"}, Node("box", {}, (GPU,)))
    assert not fits({"nodeName": "box"}, Node("box", {}, (Taint("a", "NoExecute"),)))


def test_every_taint_needs_its_toleration() -> None:
    node = Node("box", {}, (GPU, Taint("dedicated", "NoSchedule", "chat")))
    (missing,) = misfits({"tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}]}, node)
    assert missing.message == "no toleration names this host's taint dedicated=chat:NoSchedule"


def test_every_reason_is_told_with_the_field_that_gives_it() -> None:
    pod = {"nodeName": "other", "nodeSelector": {"disk": "hdd", "zone": "a"}, **needs(expression("gpus", "Gt", "8"))}
    found = {issue.message: issue.path for issue in misfits(pod, Node("box", LABELS, (GPU,)))}
    terms = ("affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms")
    assert found == {
        "nodeName requires other; this host is box": ("nodeName",),
        "nodeSelector requires disk=hdd; this host has disk=ssd": ("nodeSelector", "disk"),
        "nodeSelector requires zone=a; this host has no label zone": ("nodeSelector", "zone"),
        "node affinity does not match: gpus Gt [8] (this host has gpus=8)": terms,
    }


@pytest.mark.parametrize(
    "rule",
    [
        expression("disk", "In"),
        expression("disk", "NotIn"),
        expression("disk", "Exists", "ssd"),
        expression("disk", "DoesNotExist", "ssd"),
        expression("disk", "Gt", "1", "2"),
        expression("disk", "Gt", "many"),
        expression("disk", "Lt", "9223372036854775808"),
        expression("disk", "Lt", "-1"),
        expression("disk", "Like", "s"),
        expression("-disk", "Exists"),
        expression("disk", "In", "not a label"),
        {"key": "disk"},
    ],
)
def test_refused_affinity_term_is_malformed_even_beside_one_that_matches(rule: dict[str, Any]) -> None:
    with pytest.raises(Malformed):
        list(
            misfits(affinity({"matchExpressions": [expression("disk", "Exists")]}, {"matchExpressions": [rule]}), NODE)
        )


@pytest.mark.parametrize(
    "rule", [named("Exists"), named("In"), named("In", "a", "b"), {"matchFields": [expression("spec.x", "In", "a")]}]
)
def test_field_rule_knows_one_name_of_the_node_and_one_value(rule: dict[str, Any]) -> None:
    with pytest.raises(Malformed):
        list(misfits(affinity(rule), NODE))


def test_what_chooses_among_nodes_is_told_and_changes_nothing() -> None:
    pod = {
        "affinity": {
            "nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": {}}]},
            "podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "zone"}]},
            "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "host"}]},
        },
        "tolerations": [{"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 30}],
    }
    assert fits(pod)
    assert [issue.path[-1] for issue in without_effect(pod)] == [
        "preferredDuringSchedulingIgnoredDuringExecution",
        "podAffinity",
        "podAntiAffinity",
        "tolerationSeconds",
    ]
    assert not list(without_effect({"affinity": {}, "tolerations": [{"operator": "Exists"}]}))


# ---------------------------------------------------------------- properties

keys = st.sampled_from(("a", "b", "c"))
values = st.sampled_from(("", "x", "1", "2", "10"))
numbers = st.sampled_from(("0", "1", "5", "10"))
expressions = st.one_of(
    st.builds(
        lambda k, o, v: expression(k, o, *v), keys, st.sampled_from(("In", "NotIn")), st.lists(values, min_size=1)
    ),
    st.builds(expression, keys, st.sampled_from(("Exists", "DoesNotExist"))),
    st.builds(expression, keys, st.sampled_from(("Gt", "Lt")), numbers),
)
terms = st.lists(expressions, min_size=1, max_size=3).map(lambda each: {"matchExpressions": each})
nodes = st.dictionaries(keys, values).map(lambda labels: Node("box", labels))


@given(nodes, st.lists(terms, min_size=1, max_size=3))
def test_terms_match_when_any_of_them_does(node: Node, every: list[dict[str, Any]]) -> None:
    assert fits(affinity(*every), node) == any(fits(affinity(each), node) for each in every)


@given(nodes, st.lists(expressions, min_size=1, max_size=3))
def test_expressions_match_when_all_of_them_do(node: Node, every: list[dict[str, Any]]) -> None:
    assert fits(needs(*every), node) == all(fits(needs(each), node) for each in every)


@given(nodes, keys, st.lists(values, min_size=1))
def test_notin_and_doesnotexist_are_the_opposites_of_in_and_exists(node: Node, key: str, some: list[str]) -> None:
    assert fits(needs(expression(key, "In", *some)), node) != fits(needs(expression(key, "NotIn", *some)), node)
    assert fits(needs(expression(key, "Exists")), node) != fits(needs(expression(key, "DoesNotExist")), node)


@given(nodes, st.dictionaries(keys, values, min_size=1))
def test_node_selector_is_an_affinity_of_single_values(node: Node, selector: dict[str, str]) -> None:
    same = needs(*(expression(key, "In", value) for key, value in selector.items()))
    assert fits({"nodeSelector": selector}, node) == fits(same, node)


taints = st.builds(Taint, keys, st.sampled_from(("NoSchedule", "NoExecute", "PreferNoSchedule")), values)
tolerations = st.fixed_dictionaries(
    {},
    optional={
        "key": keys,
        "operator": st.sampled_from(("Equal", "Exists")),
        "value": values,
        "effect": st.sampled_from(("", "NoSchedule", "NoExecute", "PreferNoSchedule")),
    },
)


@given(st.lists(taints), st.lists(tolerations), tolerations)
def test_one_more_toleration_never_keeps_a_pod_away(every: list[Taint], some: list[Any], more: Any) -> None:
    node = Node("box", {}, tuple(every))
    if fits({"tolerations": some}, node):
        assert fits({"tolerations": [*some, more]}, node)
    assert fits({"tolerations": [{"operator": "Exists"}]}, node)
