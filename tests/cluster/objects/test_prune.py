"""Only members are pruned, only if git could be read, and never with what is not ours; no crash loses a member."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.cluster.objects.compare import applied
from reconciler.cluster.objects.ignore import Rules, applied_body
from reconciler.cluster.objects.inventory import (
    ClusterInventory,
    Member,
    confirm,
    inventory_body,
    read_inventory,
    shrink,
    union,
)
from reconciler.cluster.objects.owned import owned_fields
from reconciler.cluster.objects.prune import PruneContext, Pruning, foreign, prune
from reconciler.model import Desired, DesiredState, KubeObject, ObjectId, Origin, Reason, ReasonCode, ServiceId
from tests.cluster.objects.parts import config_map, desired, entry, live, ours

EMPTY = ClusterInventory("inventory", "reconciler", "prod")
FILE = "models/web.yaml"
WEB = ObjectId("", "ConfigMap", "default", "web")
UNREADABLE = Reason(ReasonCode.INVALID_YAML, "is not YAML", Origin("models/other.yaml", 3))


def state(*bodies: dict[str, Any], **more: Any) -> DesiredState:
    return DesiredState("prod", "r1", (), objects=tuple(desired(body) for body in bodies), **more)


def member(uid: str = "u1", **more: Any) -> Member:
    return Member(uid, FILE, "hash", **more)


def inventory(**members: Member) -> ClusterInventory:
    return replace(EMPTY, members={ObjectId("", "ConfigMap", "default", name): each for name, each in members.items()})


def pruned(there: KubeObject | None, wanted: DesiredState, one: Member | None = None) -> Pruning:
    return prune(inventory(web=one or member()), wanted, PruneContext({WEB: there}))


def there(uid: str = "u1", annotations: dict[str, str] | None = None, **metadata: Any) -> dict[str, Any]:
    found = live(config_map(**(annotations or {})), ours(config_map()), uid=uid)
    found["metadata"] |= metadata
    return found


def test_prune_member_that_git_deleted_is_deleted() -> None:
    [found] = pruned(there(), state()).delete
    assert (found.id, found.uid, found.reason.code, found.approval) == (WEB, "u1", ReasonCode.DELETING, "")
    assert found.reason.origin == Origin(FILE, 1)


def test_prune_member_that_git_has_is_left() -> None:
    assert pruned(there(), state(config_map())) == Pruning()


def test_prune_live_object_that_is_not_known_is_not_missing() -> None:
    assert prune(inventory(web=member()), state(), PruneContext({})) == Pruning()


def test_prune_member_that_is_gone_leaves_the_inventory() -> None:
    assert pruned(None, state()) == Pruning(gone={WEB: "u1"})


def test_prune_another_object_of_the_name_stays_and_is_forgotten() -> None:
    assert pruned(there(uid="u2"), state()) == Pruning(replaced={WEB: "u1"})


CONTROLLED = [{"kind": "Operator", "name": "o", "controller": True}]
BROKEN = Desired(ServiceId("default", "new"), Origin(FILE, 1), None, "", problems=(UNREADABLE,))


@pytest.mark.parametrize(
    ("found", "wanted", "one", "code"),
    [
        (there(annotations={"reconciler/prune": "disabled"}), state(), member(), ReasonCode.PRUNE_DISABLED),
        (
            there(annotations={"kustomize.toolkit.fluxcd.io/prune": "disabled"}),
            state(),
            member(),
            ReasonCode.PRUNE_DISABLED,
        ),
        (
            there(annotations={"argocd.argoproj.io/sync-options": "Prune=false"}),
            state(),
            member(),
            ReasonCode.PRUNE_DISABLED,
        ),
        (there(), state(), member(prune=False), ReasonCode.PRUNE_DISABLED),
        (there(ownerReferences=CONTROLLED), state(), member(), ReasonCode.CONTROLLED),
        (there(), state(unreadable=(UNREADABLE,)), member(), ReasonCode.UNREADABLE),
        (there(), state(prunable=False), member(), ReasonCode.NOT_PRUNABLE),
        (there(), replace(state(), services=(BROKEN,)), member(), ReasonCode.INVALID_YAML),
        (
            there(),
            state(skipped={FILE: Reason(ReasonCode.HIDDEN, "is hidden", Origin(FILE, 1))}),
            member(),
            ReasonCode.HIDDEN,
        ),
    ],
)
def test_prune_keeps_a_member_and_says_why(found: Any, wanted: DesiredState, one: Member, code: ReasonCode) -> None:
    result = pruned(found, wanted, one)
    assert (result.delete, result.gone, result.replaced) == ((), {}, {})
    assert result.kept[WEB].code is code


def test_prune_member_being_deleted_is_waited_for() -> None:
    ending = there(deletionTimestamp="2026-11-29T17:00:00Z", finalizers=["x/protect"])
    result = pruned(ending, state())
    assert result.delete == ()
    assert "its finalizers are not done: x/protect" in result.ending[WEB].message


# ---------------------------------------------------------------- namespaces and CRDs

NAMESPACE = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}}
CRD = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "things.example.com"},
    "spec": {"group": "example.com", "names": {"kind": "Thing"}},
}
THING = ObjectId("example.com", "Thing", "team", "one")


def body_of(one: ObjectId) -> dict[str, Any]:
    metadata = {"name": one.name, "namespace": one.namespace}
    return {"apiVersion": f"{one.group}/v1".lstrip("/"), "kind": one.kind, "metadata": metadata}


def pruned_container(body: dict[str, Any], *wanted: dict[str, Any], contents: Any = None, **members: Any) -> Pruning:
    one = ObjectId.of(body)
    kept = replace(EMPTY, members={one: member(), **members})
    known = {} if contents is None else {one: contents}
    return prune(kept, state(*wanted), PruneContext({one: live(body, ours(body))}, known))


@pytest.mark.parametrize("body", [NAMESPACE, CRD])
def test_prune_container_waits_until_its_contents_are_known(body: dict[str, Any]) -> None:
    one = ObjectId.of(body)
    assert pruned_container(body) == Pruning(unknown=(one,))
    assert [each.id for each in pruned_container(body, contents=()).delete] == [one]


@pytest.mark.parametrize("body", [NAMESPACE, CRD])
def test_prune_container_of_what_git_still_wants_is_kept(body: dict[str, Any]) -> None:
    result = pruned_container(body, body_of(THING), contents=())
    assert result.delete == ()
    assert str(THING) in result.kept[ObjectId.of(body)].message


def test_prune_namespace_with_foreign_objects_is_kept() -> None:
    result = pruned_container(NAMESPACE, contents=(THING,))
    [reason] = result.kept.values()
    assert (result.delete, reason.code) == ((), ReasonCode.IN_USE)
    assert "it holds what is not ours: Thing.example.com team/one" in reason.message


def test_prune_crd_with_foreign_instances_needs_approval() -> None:
    [found] = pruned_container(CRD, contents=tuple(replace(THING, name=str(number)) for number in range(7))).delete
    assert found.approval.endswith("Thing.example.com team/4 and 2 more")


def test_foreign_objects_are_those_lost_with_a_namespace() -> None:
    pod = body_of(ObjectId("", "Pod", "default", "p"))
    objects = [
        there(),
        there(uid="u2") | {"metadata": there()["metadata"] | {"name": "other"}},
        live(config_map("kube-root-ca.crt"), uid="u3"),
        live({**pod, "metadata": {**pod["metadata"], "ownerReferences": CONTROLLED}}, uid="u4"),
        live(body_of(ObjectId("", "Event", "default", "e")), uid="u5"),
    ]
    assert [one.name for one in foreign(objects, inventory(web=member()))] == ["other"]
    assert [one.name for one in foreign(objects, inventory(web=member("u9")))] == ["web", "other"]


# ---------------------------------------------------------------- every history

NAMES = ("a", "b", "c")


class World:
    """A cluster with our inventory, in which others make and delete objects of the same names."""

    def __init__(self) -> None:
        self.objects: dict[ObjectId, dict[str, Any]] = {}
        self.parent: KubeObject | None = None
        self._uids = (f"u{number}" for number in itertools.count(1))

    def make(self, body: KubeObject, manager: dict[str, Any]) -> dict[str, Any]:
        one = ObjectId.of(body)
        uid = self.objects[one]["metadata"]["uid"] if one in self.objects else next(self._uids)
        self.objects[one] = live(dict(body), manager, uid=uid)
        return self.objects[one]

    def write(self, kept: ClusterInventory) -> None:
        self.parent = inventory_body(kept)

    def read(self) -> ClusterInventory:
        return read_inventory(EMPTY.name, EMPTY.namespace, EMPTY.owner, self.parent)

    def seen(self, kept: ClusterInventory) -> PruneContext:
        return PruneContext({one: self.objects.get(one) for one in kept.members})

    def steps(self, names: tuple[str, ...]) -> Iterator[None]:
        """One pass, which may end at every yield. It takes over what others made."""
        wanted = state(*(config_map(name) for name in names))
        rules = Rules(applyset=EMPTY.applyset)
        kept = self.read()
        seen = {each.id: self.objects.get(each.id) for each in wanted.objects}
        planned = {one: Member(found["metadata"]["uid"] if found else "", FILE) for one, found in seen.items()}
        self.write(kept := union(kept, planned))
        yield
        done = {}
        for each in wanted.objects:
            body = applied_body(each, seen[each.id], rules)
            done[each.id] = applied(each, self.make(body, ours(dict(body))), rules)
            yield
        self.write(kept := confirm(kept, done))
        yield
        result = prune(kept, wanted, self.seen(kept))
        for one in result.delete:
            if self.objects[one.id]["metadata"]["uid"] == one.uid:
                del self.objects[one.id]
            yield
        after = prune(kept, wanted, self.seen(kept))
        self.write(shrink(kept, {**after.gone, **after.replaced}))
        yield


PASSES = st.tuples(st.sets(st.sampled_from(NAMES)).map(lambda each: tuple(sorted(each))), st.integers(0, 9))
OTHERS = st.tuples(st.sampled_from(NAMES), st.booleans())


@given(st.lists(PASSES | OTHERS, max_size=12))
def test_inventory_loses_no_member_wherever_a_pass_ends(history: list[Any]) -> None:
    world = World()
    for event in history:
        if isinstance(event[0], tuple):
            for _ in itertools.islice(world.steps(event[0]), event[1]):
                pass
        else:
            name, is_made = event
            world.objects.pop(ObjectId("", "ConfigMap", "default", name), None)
            if is_made:
                world.make(config_map(name), entry("kubectl-create", {"f:data": {}}))
    theirs = {one for one, each in world.objects.items() if owned_fields(each) is None}
    # All is deleted in git at last: what we made goes, what others made stays.
    for _ in world.steps(()):
        pass
    assert set(world.objects) == theirs
    assert not world.read().members


KINDS = st.sampled_from([("", "ConfigMap"), ("", "Namespace"), ("apps", "Deployment")])
ANY_IDS = st.builds(lambda kind, name: ObjectId(*kind, "default", name), KINDS, st.sampled_from(NAMES))
ANY_MEMBERS = st.dictionaries(
    ANY_IDS,
    st.builds(Member, st.sampled_from(["", "u1", "u2"]), body=st.sampled_from(["", "hash"]), prune=st.booleans()),
)


@given(ANY_MEMBERS, st.sets(ANY_IDS), st.dictionaries(ANY_IDS, st.none() | st.sampled_from(["u1", "u2"])))
def test_prune_names_nothing_outside_of_the_inventory(members, wanted, uids) -> None:
    kept = replace(EMPTY, members=members)
    found = {one: uid and live(body_of(one), ours(body_of(one)), uid=uid) for one, uid in uids.items()}
    result = prune(kept, state(*map(body_of, wanted)), PruneContext(found))
    parts = [
        {each.id for each in result.delete},
        *map(set, (result.kept, result.gone, result.replaced, result.unknown)),
    ]
    named = set().union(*parts)
    assert sum(map(len, parts)) == len(named)
    assert named <= set(members) - wanted
    assert named == {one for one in members if one not in wanted and one in uids}
    for each in result.delete:
        assert members[each.id].uid == each.uid == uids[each.id]
        assert members[each.id].prune
