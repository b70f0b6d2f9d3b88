"""What is ours on a cluster: an ApplySet, whose parent is a ConfigMap. Pure.

The parent's labels and annotations are as Kubernetes' KEP-3659 has them, so that kubectl understands it: see
https://kubernetes.io/docs/tasks/manage-kubernetes-objects/declarative-config/#alternative-kubectl-apply-f-directory-prune.
Labels alone say too little to delete by, since operators copy them to what they make: the parent's data names every
member with its UID.

So that nothing is lost wherever we end: `union` is written before objects are applied, `confirm` after that, and
`shrink` once they are gone.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from reconciler.cluster.objects.compare import Applied
from reconciler.cluster.objects.ignore import PART_OF
from reconciler.cluster.objects.options import annotations_of
from reconciler.cluster.objects.owned import owned_fields
from reconciler.cluster.objects.owners import owners_of
from reconciler.errors import Terminal
from reconciler.model import KubeObject, ObjectId

ID: Final = "applyset.kubernetes.io/id"
TOOLING: Final = "applyset.kubernetes.io/tooling"
GROUP_KINDS: Final = "applyset.kubernetes.io/contains-group-kinds"
NAMESPACES: Final = "applyset.kubernetes.io/additional-namespaces"
OWNER: Final = "reconciler/owner"

_TOOL: Final = "reconciler/v1.0.0"
_PLAIN: Final = "members"
_PACKED: Final = "members.gz"
# A few thousand members as text are a large write in every pass that changes something.
_MOST_PLAIN_BYTES: Final = 256 << 10
# The API server takes 1 MiB of data in a ConfigMap.
_MOST_BYTES: Final = 1_000_000
_MOST_UNPACKED: Final = 64 << 20


class InventoryError(Terminal):
    """The inventory cannot be used: it is another one's, damaged, or has no room. Nothing is applied or deleted."""


@dataclass(frozen=True, slots=True)
class Member:
    """What is known of one object that is ours.

    `uid` is empty while it is being made. `file` is where git has it, or had it last, and `body` the hash of what was
    applied last (`Applied.body`). `prune` is False where git said that it stays.
    """

    uid: str = ""
    file: str = ""
    body: str = ""
    prune: bool = True


@dataclass(frozen=True, slots=True)
class ClusterInventory:
    """All members. `owner` tells the daemon's target from any other that would use the same parent.

    `resource_version` is the parent's as it was read: a write that carries it fails where another one was faster.
    Empty: there is no parent yet.
    """

    name: str
    namespace: str
    owner: str
    members: Mapping[ObjectId, Member] = field(default_factory=dict)
    resource_version: str = ""

    @property
    def applyset(self) -> str:
        """The ApplySet's id, which members have as the value of their label."""
        key = f"{self.name}.{self.namespace}.ConfigMap."
        digest = base64.urlsafe_b64encode(hashlib.sha256(key.encode()).digest()).decode().rstrip("=")
        return f"applyset-{digest}-v1"

    def __str__(self) -> str:
        return f"inventory ConfigMap {self.namespace}/{self.name}"


# ---------------------------------------------------------------- one pass


def union(inventory: ClusterInventory, planned: Mapping[ObjectId, Member]) -> ClusterInventory:
    """With what is about to be applied: the UID as it is live, empty where it is to be made. Write it first.

    What was applied last stays known: it has not changed yet. The same inventory where nothing is new.
    """
    members = dict(inventory.members)
    for one, member in planned.items():
        known = members.get(one)
        is_same = known is not None and known.uid == member.uid
        members[one] = replace(member, body=known.body if known and is_same else "")
    return _with(inventory, members)


def confirm(inventory: ClusterInventory, applied: Mapping[ObjectId, Applied]) -> ClusterInventory:
    """With what was applied."""
    members = dict(inventory.members)
    for one, made in applied.items():
        known = members.get(one, Member())
        if (known.uid, known.body) != (made.uid, made.body) or one not in members:
            members[one] = replace(known, uid=made.uid, body=made.body)
    return _with(inventory, members)


def shrink(inventory: ClusterInventory, gone: Mapping[ObjectId, str]) -> ClusterInventory:
    """Without what is known to be gone, each with the UID that it had: another one of its name may be ours."""
    kept = {one: each for one, each in inventory.members.items() if gone.get(one) != each.uid}
    return _with(inventory, kept)


def is_ours(member: Member, live: KubeObject, applyset: str) -> bool:
    """Is the live object the member? By its UID, if we ever applied it: a take-over may have ended before that. Where
    we ended before we knew the UID, by what nobody copies by chance: that we applied it as part of this set, and no
    controller made it."""
    metadata = live["metadata"]
    if member.uid:
        return bool(metadata["uid"] == member.uid and (member.body or owned_fields(live) is not None))
    labels = metadata.get("labels") or {}
    is_made = any(owner.get("controller") for owner in metadata.get("ownerReferences") or ())
    return labels.get(PART_OF) == applyset and owned_fields(live) is not None and not is_made


def _with(inventory: ClusterInventory, members: Mapping[ObjectId, Member]) -> ClusterInventory:
    return inventory if members == inventory.members else replace(inventory, members=members)


# ---------------------------------------------------------------- the parent


def inventory_body(inventory: ClusterInventory) -> KubeObject:
    """The ConfigMap to apply. Raises InventoryError if it has no room."""
    metadata: dict[str, Any] = {
        "name": inventory.name,
        "namespace": inventory.namespace,
        "labels": {ID: inventory.applyset, "app.kubernetes.io/managed-by": "reconciler"},
        "annotations": {
            TOOLING: _TOOL,
            OWNER: inventory.owner,
            GROUP_KINDS: ",".join(sorted({f"{each.kind}.{each.group}".rstrip(".") for each in inventory.members})),
            NAMESPACES: ",".join(sorted({each.namespace for each in inventory.members} - {"", inventory.namespace})),
        },
    }
    if inventory.resource_version:
        metadata["resourceVersion"] = inventory.resource_version
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, **_data(inventory)}


def _data(inventory: ClusterInventory) -> dict[str, Any]:
    """A line for each member; packed where that is long."""
    text = "".join(f"{line}\n" for line in _lines(inventory.members)).encode()
    if len(text) <= _MOST_PLAIN_BYTES:
        return {"data": {_PLAIN: text.decode()}}
    packed = gzip.compress(text, 6, mtime=0)
    if len(packed) > _MOST_BYTES:
        raise InventoryError(
            f"{inventory}: {len(inventory.members):,} objects do not fit into it; divide them between several targets"
        )
    return {"binaryData": {_PACKED: base64.b64encode(packed).decode()}}


def _lines(members: Mapping[ObjectId, Member]) -> Iterator[str]:
    for one in sorted(members):
        each = members[one]
        line = [one.group, one.kind, one.namespace, one.name, each.uid, each.body, each.file, each.prune]
        yield json.dumps(line, ensure_ascii=False, separators=(",", ":"))


def read_inventory(name: str, namespace: str, owner: str, found: KubeObject | None) -> ClusterInventory:
    """The inventory as the parent has it, or a new one where there is none. Raises InventoryError."""
    empty = ClusterInventory(name, namespace, owner)
    if found is None:
        return empty
    _refuse_others(empty, found)
    try:
        members = dict(_parsed(line) for line in _text(found).split("\n") if line)
    except (ValueError, TypeError, EOFError, OSError, zlib.error) as error:
        raise InventoryError(
            f"{empty} is damaged ({type(error).__name__}), so what is ours is not known; restore its data from a "
            "backup, or delete it: then what git has becomes ours again, and what git does not have is left as it is"
        ) from None
    return replace(empty, members=members, resource_version=found["metadata"].get("resourceVersion", ""))


def _refuse_others(inventory: ClusterInventory, found: KubeObject) -> None:
    labels, annotations = found["metadata"].get("labels") or {}, annotations_of(found)
    tool = annotations.get(TOOLING, "").partition("/")[0]
    if labels.get(ID) != inventory.applyset or tool != "reconciler":
        whose = f"it is of {tool}" if tool else f"it is of {', '.join(owners_of(found))}"
        raise InventoryError(f"{inventory} is no inventory of ours: {whose}; choose another name for the inventory")
    if (owner := annotations.get(OWNER, "")) != inventory.owner:
        raise InventoryError(
            f'{inventory} belongs to "{owner[:200]}", and this is "{inventory.owner}"; choose another name for the '
            f"inventory, or, if that one is no more, set its annotation {OWNER} to this one"
        )


def _text(found: KubeObject) -> str:
    plain, packed = (found.get("data") or {}).get(_PLAIN), (found.get("binaryData") or {}).get(_PACKED)
    if plain is not None and packed is None:
        return str(plain)
    if packed is None or plain is not None:
        raise ValueError("neither or both")
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    text = unpacker.decompress(base64.b64decode(packed, validate=True), _MOST_UNPACKED)
    if not unpacker.eof:
        raise ValueError("cut off")
    return text.decode()


def _parsed(line: str) -> tuple[ObjectId, Member]:
    *texts, prune = json.loads(line)
    if not all(isinstance(each, str) for each in texts) or not isinstance(prune, bool):
        raise TypeError("not a member")
    group, kind, namespace, name, uid, body, file = texts
    return ObjectId(group, kind, namespace, name), Member(uid, file, body, prune)


def inventory_name(target: str) -> str:
    """Of the ConfigMap that holds a target's inventory, and of its Lease."""
    return f"reconciler-{target}"


def inventory_id(namespace: str, target: str) -> ObjectId:
    """Where the inventory of a target is."""
    return ObjectId("", "ConfigMap", namespace, inventory_name(target))
