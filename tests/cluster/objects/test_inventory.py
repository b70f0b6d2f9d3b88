"""The inventory: an ApplySet that names every member, loses none wherever we end, and is used by one daemon alone."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import uuid
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.cluster.objects.compare import Applied
from reconciler.cluster.objects.inventory import (
    ClusterInventory,
    InventoryError,
    Member,
    confirm,
    inventory_body,
    is_ours,
    read_inventory,
    shrink,
    union,
)
from reconciler.model import ObjectId
from tests.cluster.objects.parts import config_map, entry, live, ours

EMPTY = ClusterInventory("inventory", "reconciler", "prod")
TEXTS = st.text(max_size=8)
IDS = st.builds(ObjectId, TEXTS, TEXTS, TEXTS, TEXTS)
MEMBERS = st.dictionaries(IDS, st.builds(Member, TEXTS, TEXTS, TEXTS, st.booleans()), max_size=8)


def read(body: Any, owner: str = "prod") -> ClusterInventory:
    return read_inventory("inventory", "reconciler", owner, body)


@given(MEMBERS)
def test_inventory_written_and_read_again_is_the_same(members: dict[ObjectId, Member]) -> None:
    inventory = replace(EMPTY, members=members)
    assert read(json.loads(json.dumps(inventory_body(inventory)))) == inventory


def many(count: int) -> ClusterInventory:
    members = {
        ObjectId(
            "serving.kserve.io", "InferenceService", f"team-{number % 40}", f"llama-3-70b-instruct-{number}"
        ): Member(
            str(uuid.UUID(int=number * 7919**8)), f"clusters/prod/models/llama-{number}.yaml", f"{number:016x}.01234567"
        )
        for number in range(count)
    }
    return replace(EMPTY, members=members)


@pytest.mark.slow
@pytest.mark.parametrize(("count", "part"), [(1_000, "data"), (5_000, "binaryData")])
def test_inventory_of_thousands_fits_into_a_config_map(count: int, part: str) -> None:
    body = inventory_body(many(count))
    assert part in body
    assert len(json.dumps(body)) < 1_000_000
    assert read(body) == many(count)


@pytest.mark.slow
def test_inventory_that_does_not_fit_says_so() -> None:
    names = (hashlib.sha512(str(number).encode()).hexdigest() for number in range(22_000))
    members = {ObjectId("", "ConfigMap", "", name): Member() for name in names}
    with pytest.raises(InventoryError, match="22,000 objects do not fit into it"):
        inventory_body(replace(EMPTY, members=members))


def test_inventory_says_which_kinds_and_namespaces_it_holds() -> None:
    ids = [
        ObjectId("apps", "Deployment", "b", "x"),
        ObjectId("", "Secret", "a", "y"),
        ObjectId("", "Namespace", "", "b"),
    ]
    ids.append(ObjectId("", "ConfigMap", "reconciler", "z"))
    metadata = inventory_body(replace(EMPTY, members={one: Member() for one in ids}, resource_version="7"))["metadata"]
    assert metadata["annotations"]["applyset.kubernetes.io/contains-group-kinds"] == (
        "ConfigMap,Deployment.apps,Namespace,Secret"
    )
    assert metadata["annotations"]["applyset.kubernetes.io/additional-namespaces"] == "a,b"
    assert metadata["labels"]["applyset.kubernetes.io/id"] == EMPTY.applyset
    assert metadata["resourceVersion"] == "7"


def other(**changes: Any) -> dict[str, Any]:
    """Our parent with other labels and annotations; None: without."""
    body = json.loads(json.dumps(inventory_body(many(1))))
    for part in ("labels", "annotations"):
        kept = body["metadata"][part] | changes.get(part, {})
        body["metadata"][part] = {key: value for key, value in kept.items() if value is not None}
    return body | {key: value for key, value in changes.items() if key not in ("labels", "annotations")}


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (live(config_map(), entry("helm", {})), "is no inventory of ours: it is of Helm"),
        (other(annotations={"applyset.kubernetes.io/tooling": "kubectl/v1.36"}), "it is of kubectl;"),
        (other(annotations={"reconciler/owner": "staging"}), 'belongs to "staging", and this is "prod"'),
        (other(annotations={"reconciler/owner": None}), 'belongs to ""'),
        (other(labels={"applyset.kubernetes.io/id": "applyset-x-v1"}), "is no inventory of ours"),
        (other(data={}), "is damaged"),
        (other(data={"members": "["}), "is damaged"),
        (other(data={"members": "[1]"}), "is damaged"),
        (other(data={"members": '["","","","","","",0,true]'}), "is damaged"),
        (other(data={}, binaryData={"members.gz": "AAAA"}), "is damaged"),
        (
            other(data={}, binaryData={"members.gz": base64.b64encode(gzip.compress(b"[]")[:-9]).decode()}),
            "is damaged",
        ),
        (other(binaryData={"members.gz": "AAAA"}), "is damaged"),
    ],
)
def test_inventory_of_others_or_damaged_is_refused(found: Any, said: str) -> None:
    with pytest.raises(InventoryError) as caught:
        read(found)
    assert said in str(caught.value)


@pytest.mark.slow
def test_inventory_that_unpacks_to_too_much_is_refused() -> None:
    bomb = base64.b64encode(gzip.compress(b" " * (65 << 20))).decode()
    with pytest.raises(InventoryError, match="is damaged"):
        read(other(data={}, binaryData={"members.gz": bomb}))


def test_inventory_that_is_not_there_is_empty() -> None:
    assert read(None) == EMPTY


ONE, TWO = ObjectId("", "ConfigMap", "default", "one"), ObjectId("", "ConfigMap", "default", "two")


def test_union_adds_and_keeps_what_was_applied() -> None:
    before = replace(EMPTY, members={ONE: Member("u1", "a.yaml", "hash")})
    after = union(before, {ONE: Member("u1", "b.yaml"), TWO: Member("", "c.yaml")})
    assert after.members == {ONE: Member("u1", "b.yaml", "hash"), TWO: Member("", "c.yaml")}
    assert union(after, {ONE: Member("u1", "b.yaml")}) is after


def test_union_of_an_object_to_be_made_again_forgets_the_old_uid() -> None:
    before = replace(EMPTY, members={ONE: Member("u1", "a.yaml", "hash")})
    assert union(before, {ONE: Member("", "a.yaml")}).members == {ONE: Member("", "a.yaml", "")}


def test_confirm_keeps_uid_and_hash() -> None:
    before = replace(EMPTY, members={ONE: Member("", "a.yaml", prune=False)})
    assert confirm(before, {ONE: Applied("hash", "u1")}).members == {ONE: Member("u1", "a.yaml", "hash", prune=False)}


def test_shrink_keeps_another_object_of_the_name() -> None:
    before = replace(EMPTY, members={ONE: Member("u2"), TWO: Member("u3")})
    assert shrink(before, {ONE: "u1", TWO: "u3"}).members == {ONE: Member("u2")}


MADE = ours(config_map())
LABELS = {"applyset.kubernetes.io/part-of": EMPTY.applyset}
CONTROLLED = [{"kind": "Operator", "name": "o", "controller": True}]


@pytest.mark.parametrize(
    ("member", "manager", "metadata", "is_it"),
    [
        (Member("u1"), MADE, {}, True),
        (Member("u1"), entry("kubectl", {"f:data": {}}), {"labels": LABELS}, False),
        (Member("u1", body="hash"), entry("kubectl", {"f:data": {}}), {}, True),
        (Member("u2"), MADE, {"labels": LABELS}, False),
        (Member(""), MADE, {"labels": LABELS}, True),
        (Member(""), MADE, {}, False),
        (Member(""), MADE, {"labels": {"applyset.kubernetes.io/part-of": "applyset-x-v1"}}, False),
        (Member(""), entry("operator", {"f:data": {}}), {"labels": LABELS}, False),
        (Member(""), MADE, {"labels": LABELS, "ownerReferences": CONTROLLED}, False),
    ],
)
def test_member_is_known_by_uid_else_by_how_it_was_made(member, manager, metadata, is_it: bool) -> None:
    there = live(config_map(), manager)
    there["metadata"] |= metadata
    assert is_ours(member, there, EMPTY.applyset) == is_it
