"""Which members of the inventory are deleted, because git does not have them any more. Pure.

A member is deleted if git could be read where it came from, the live object is the very one that we applied, nobody
said that it stays, and nothing of others goes with it. What is not in the inventory is never looked at.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from reconciler.cluster.objects.inventory import ClusterInventory, Member, is_ours
from reconciler.cluster.objects.options import is_prunable
from reconciler.model import NO_ORIGIN, DesiredState, KubeObject, NoOrigin, ObjectId, Origin, Reason, ReasonCode
from reconciler.model.names import listed
from reconciler.model.pruning import unproven_deletion

_MOST_NAMED: Final = 5
_CRD: Final = ("apiextensions.k8s.io", "CustomResourceDefinition")
_NAMESPACE: Final = ("", "Namespace")
# What Kubernetes makes in every namespace, and what goes with the objects that it is about.
_OF_NAMESPACES: Final = frozenset({("ServiceAccount", "default"), ("ConfigMap", "kube-root-ca.crt")})
_BY_THE_WAY: Final = frozenset({"Event", "Endpoints", "EndpointSlice", "Lease", "PodMetrics"})


@dataclass(frozen=True, slots=True)
class PruneContext:
    """What is there beside the members, where it is known.

    `live` are live objects of members, None for those that are not there. `contents` are, for a namespace and a CRD,
    the objects in it, of it, that are not ours (`foreign`).
    """

    live: Mapping[ObjectId, KubeObject | None]
    contents: Mapping[ObjectId, Collection[ObjectId]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Prunable:
    """One object to delete. `approval` says why a person must approve it, whatever else goes."""

    id: ObjectId
    uid: str
    reason: Reason
    approval: str = ""


@dataclass(frozen=True, slots=True)
class Pruning:
    """What becomes of members that git does not have.

    `kept` stay, with the reason; in the inventory as well. `ending` are being deleted. `gone` are there no more, and
    leave the inventory with the UID that they had; `replaced` leave it, too: what has their name now is not ours.
    `unknown` are namespaces and CRDs of which first must be seen what is in them.
    """

    delete: tuple[Prunable, ...] = ()
    kept: Mapping[ObjectId, Reason] = field(default_factory=dict)
    ending: Mapping[ObjectId, Reason] = field(default_factory=dict)
    gone: Mapping[ObjectId, str] = field(default_factory=dict)
    replaced: Mapping[ObjectId, str] = field(default_factory=dict)
    unknown: tuple[ObjectId, ...] = ()


def prune(inventory: ClusterInventory, desired: DesiredState, around: PruneContext) -> Pruning:
    """What becomes of members that git does not have. A live object that is not known is not missing."""
    wanted = {each.id for each in desired.objects}
    absent = sorted((one, each) for one, each in inventory.members.items() if one not in wanted)
    found = [_Absent(one, each, around.live[one]) for one, each in absent if one in around.live]
    ours = [each for each in found if _is_ours(each, inventory)]
    ending = {each.id: reason for each in ours if (reason := _ending(each))}
    ours = [each for each in ours if each.id not in ending]
    kept = {each.id: reason for each in ours if (reason := _reason_to_keep(each, desired))}
    staying = _Staying.of([*wanted, *kept])
    kept |= {each.id: reason for each in ours if each.id not in kept and (reason := _in_use(each, staying, around))}
    unknown = [each.id for each in ours if each.id not in kept and _is_unknown(each, around)]
    going = [each for each in ours if each.id not in kept and each.id not in unknown]
    return Pruning(
        delete=tuple(_prunable(each, desired, around) for each in going),
        kept=kept,
        ending=ending,
        gone={each.id: each.member.uid for each in found if each.live is None},
        replaced={each.id: each.member.uid for each in found if each.live and not _is_ours(each, inventory)},
        unknown=tuple(unknown),
    )


@dataclass(frozen=True, slots=True)
class _Absent:
    """A member that git does not have, and what is known of it."""

    id: ObjectId
    member: Member
    live: KubeObject | None

    @property
    def metadata(self) -> Mapping[str, Any]:
        return self.live["metadata"] if self.live else {}

    @property
    def origin(self) -> Origin | NoOrigin:
        return Origin(self.member.file, 1) if self.member.file else NO_ORIGIN

    @property
    def is_namespace(self) -> bool:
        return (self.id.group, self.id.kind) == _NAMESPACE

    @property
    def is_crd(self) -> bool:
        return (self.id.group, self.id.kind) == _CRD

    @property
    def served_kind(self) -> tuple[str, str]:
        """Of a CRD: group and kind of its objects."""
        spec = (self.live or {}).get("spec") or {}
        return spec.get("group", ""), (spec.get("names") or {}).get("kind", "")


@dataclass(frozen=True, slots=True)
class _Staying:
    """Namespaces and kinds of the objects that stay, or are to be made."""

    namespaces: Mapping[str, ObjectId]
    kinds: Mapping[tuple[str, str], ObjectId]

    @classmethod
    def of(cls, ids: Collection[ObjectId]) -> _Staying:
        return cls({one.namespace: one for one in ids if one.namespace}, {(one.group, one.kind): one for one in ids})


def foreign(objects: Iterable[KubeObject], inventory: ClusterInventory) -> Iterator[ObjectId]:
    """Of the objects in a namespace, or of a CRD, those that would be lost with it: neither ours, nor made by a
    controller for another object, nor what Kubernetes makes by itself."""
    for each in objects:
        one, metadata = ObjectId.of(each), each["metadata"]
        member = inventory.members.get(one)
        is_made = any(owner.get("controller") for owner in metadata.get("ownerReferences") or ())
        is_own = member is not None and is_ours(member, each, inventory.applyset)
        if not (is_own or is_made or one.kind in _BY_THE_WAY or (one.kind, one.name) in _OF_NAMESPACES):
            yield one


def _is_ours(each: _Absent, inventory: ClusterInventory) -> bool:
    return each.live is not None and is_ours(each.member, each.live, inventory.applyset)


def _ending(each: _Absent) -> Reason | None:
    if not (since := each.metadata.get("deletionTimestamp")):
        return None
    finalizers = ", ".join(str(name) for name in each.metadata.get("finalizers") or ())
    waits = f"; its finalizers are not done: {finalizers}" if finalizers else ""
    return Reason(ReasonCode.TERMINATING, f"{each.id} is being deleted since {since}{waits}", each.origin)


def _reason_to_keep(each: _Absent, desired: DesiredState) -> Reason | None:
    if not (each.member.prune and is_prunable(each.live or {})):
        text = "kept, though git does not have it: an annotation says that it is not to be pruned; delete it yourself"
        return Reason(ReasonCode.PRUNE_DISABLED, text, each.origin)
    owners = each.metadata.get("ownerReferences") or ()
    if owner := next((one for one in owners if one.get("controller")), None):
        text = f"kept: {owner.get('kind', '')} {owner.get('name', '')} controls it now, and deletes it with itself"
        return Reason(ReasonCode.CONTROLLED, text, each.origin)
    files = [each.member.file] if each.member.file else []
    # By its name a service may take its place.
    names = [each.id.name] if each.id.kind == "InferenceService" else []
    return unproven_deletion(desired, files, names, document="Cluster")


def _in_use(each: _Absent, staying: _Staying, around: PruneContext) -> Reason | None:
    """A namespace takes everything in it along, and a CRD all objects of its kind."""
    stays = None
    if each.is_namespace:
        stays = staying.namespaces.get(each.id.name)
    elif each.is_crd:
        stays = staying.kinds.get(each.served_kind)
    if stays:
        return Reason(ReasonCode.IN_USE, f"kept, because {stays} stays, and would go with it", each.origin)
    contents = around.contents.get(each.id)
    if each.is_namespace and contents:
        text = f"kept, because it holds what is not ours: {_named(contents)}; move or delete that first"
        return Reason(ReasonCode.IN_USE, text, each.origin)
    return None


def _is_unknown(each: _Absent, around: PruneContext) -> bool:
    return (each.is_namespace or each.is_crd) and each.id not in around.contents


def _prunable(each: _Absent, desired: DesiredState, around: PruneContext) -> Prunable:
    reason = desired.leaving or Reason(ReasonCode.DELETING, "deleted in git", each.origin)
    contents = around.contents.get(each.id)
    approval = f"{each.id} would take along what is not ours: {_named(contents)}" if contents else ""
    return Prunable(each.id, each.metadata["uid"], reason, approval)


def _named(ids: Collection[ObjectId]) -> str:
    return listed([str(each) for each in sorted(ids)], _MOST_NAMED)
