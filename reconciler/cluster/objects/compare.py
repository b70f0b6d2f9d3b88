"""One object in git and live: what of it is to be done. Pure.

An object that nobody touched is told by its resourceVersion. Else what is ours of it is compared, by hash, with what it
was after our last apply; only if that differs are the fields looked at one by one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from reconciler.cluster.objects.differences import FieldChange, differences
from reconciler.cluster.objects.ignore import PART_OF, Rules, applied_body, ignored_paths
from reconciler.cluster.objects.owned import owned_fields, projection_hash
from reconciler.cluster.objects.owners import as_taken_over, owners_of
from reconciler.kserve import names
from reconciler.model import DesiredObject, KubeObject, ObjectId


@dataclass(frozen=True, slots=True)
class Applied:
    """What we remember of the last apply of an object.

    `body` is `body_hash()` of what was applied, `projection` what was ours of it afterwards; empty where only the
    inventory remembers. At `resource_version` both were seen to hold.
    """

    body: str
    uid: str = ""
    projection: str = ""
    resource_version: str = ""


@dataclass(frozen=True, slots=True)
class Missing:
    """Git has it, the cluster has not."""


@dataclass(frozen=True, slots=True)
class Terminating:
    """The live object is being deleted: it must be gone before it can be made again. `finalizers` hold it up."""

    since: str
    finalizers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class InSync:
    """Nothing is to be done. `applied` is to be remembered, and makes the next comparison quick."""

    applied: Applied


@dataclass(frozen=True, slots=True)
class Unconfirmed:
    """No value differs, but is what is ours as we left it? It is not known: one apply, without effect, settles it."""


@dataclass(frozen=True, slots=True)
class Changed:
    """Git changed, or it is not known who changed what. `changes` is empty where git only writes it otherwise."""

    changes: tuple[FieldChange, ...]

    @property
    def conflicts(self) -> tuple[FieldChange, ...]:
        """Fields of other managers: the API server refuses the apply if it is not forced."""
        return tuple(each for each in self.changes if each.manager)


@dataclass(frozen=True, slots=True)
class Drifted:
    """Git is as we applied it, but someone changed what is ours.

    `force`: the apply takes back what others changed by hand. Never from one who applies, and so claims it: that is a
    conflict, which names them.
    """

    changes: tuple[FieldChange, ...]
    force: bool


@dataclass(frozen=True, slots=True)
class TakeOver:
    """It exists, and is not ours. `owners` say whose it is; `changes` are against what they leave to us."""

    owners: tuple[str, ...]
    changes: tuple[FieldChange, ...]


Comparison = Missing | Terminating | InSync | Unconfirmed | Changed | Drifted | TakeOver


def body_hash(desired: DesiredObject, rules: Rules) -> str:
    """What `Applied.body` and an inventory hold: of git's body, and what else decides about what is applied."""
    return f"{desired.hash}.{rules.digest}"


def applied(desired: DesiredObject, live: KubeObject, rules: Rules) -> Applied:
    """What to remember when an object has been applied; `live` is the API server's answer."""
    projection = projection_hash(live, ignored_paths(desired, live, rules))
    metadata = live["metadata"]
    return Applied(body_hash(desired, rules), metadata["uid"], projection, metadata["resourceVersion"])


def seen_again(known: Applied, wanted: DesiredObject, live: KubeObject, rules: Rules) -> Applied:
    """The same, where only others changed the live object since: then it is quickly compared from now on."""
    metadata = live["metadata"]
    if known.uid != metadata["uid"] or known.resource_version == metadata["resourceVersion"] or not known.projection:
        return known
    is_same = known.projection == projection_hash(live, ignored_paths(wanted, live, rules))
    return replace(known, resource_version=metadata["resourceVersion"]) if is_same else known


def compare(
    desired: DesiredObject, live: KubeObject | None, remembered: Applied | None, rules: Rules, is_member: bool = False
) -> Comparison:
    """What is to be done about an object. `is_member`: the inventory has the live object, by its UID."""
    if live is None:
        return Missing()
    metadata = live["metadata"]
    if since := metadata.get("deletionTimestamp"):
        return Terminating(since, tuple(metadata.get("finalizers") or ()))
    known = remembered if remembered and remembered.uid == metadata["uid"] else None
    is_same_body = known is not None and known.body == body_hash(desired, rules)
    if known and is_same_body and known.resource_version == metadata["resourceVersion"] != "":
        return InSync(known)
    if known is None and not is_member and not _is_made_by_us(live, rules.applyset):
        return TakeOver(owners_of(live), _changes(desired, as_taken_over(live), rules))
    if known and is_same_body:
        return _since_our_apply(desired, live, known, rules)
    changes = _changes(desired, live, rules)
    return Changed(changes) if changes or known else Unconfirmed()


def _is_made_by_us(live: KubeObject, applyset: str) -> bool:
    """Though neither we nor the inventory remember it. Another target, or a tool that calls itself as we do, applies
    under the same name; services that were taken over have no label of ours."""
    if owned_fields(live) is None:
        return False
    found, label = ObjectId.of(live), (live["metadata"].get("labels") or {}).get(PART_OF, "")
    return label == applyset or (not label and (found.group, found.kind) in names.METADATA_REACHES_PODS)


def _since_our_apply(desired: DesiredObject, live: KubeObject, known: Applied, rules: Rules) -> Comparison:
    """Git is what we applied: what differs now was done by others."""
    if known.projection and known.projection == projection_hash(live, ignored_paths(desired, live, rules)):
        return InSync(replace(known, resource_version=live["metadata"]["resourceVersion"]))
    changes = _changes(desired, live, rules)
    return Drifted(changes, not any(each.applies for each in changes)) if changes else Unconfirmed()


def _changes(desired: DesiredObject, live: KubeObject, rules: Rules) -> tuple[FieldChange, ...]:
    return differences(applied_body(desired, live, rules), live)
