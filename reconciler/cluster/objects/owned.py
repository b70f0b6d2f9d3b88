"""Who owns which field of a live object, by its `metadata.managedFields`. Pure.

`fieldsV1` is a tree of names: `f:NAME` is a field, `k:{...}` the item of a list with these keys, `v:VALUE` an item that
is its own key, `i:N` one by its place, and `.` the node itself. A node without children is owned as a whole.

What changes a field of ours takes it from our entry, and so the entry says nearly everything: its hash, with the
values of the single fields, changes with every change of what is ours, and with nothing else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from reconciler.cluster.api.trimming import OUR_MANAGER
from reconciler.cluster.objects.paths import EVERY, Path, Step
from reconciler.model import KubeObject

Fields = Mapping[str, Any]
"""A node of `fieldsV1`."""


@dataclass(frozen=True, slots=True)
class Manager:
    """One entry of managedFields. `operation` is Apply or Update; who applies states what it wants to own."""

    name: str
    operation: str
    subresource: str
    fields: Fields

    @property
    def is_ours(self) -> bool:
        return self.name == OUR_MANAGER and self.operation == "Apply" and not self.subresource

    @property
    def applies(self) -> bool:
        return self.operation == "Apply"

    @property
    def is_autoscaler(self) -> bool:
        """Does it set the number of replicas for a HorizontalPodAutoscaler or KEDA? `kubectl scale` is a person."""
        return self.subresource == "scale" and not self.name.startswith("kubectl")


def managers_of(live: KubeObject) -> tuple[Manager, ...]:
    """All that own fields of it. Which these are is not kept of all live objects, nor of anybody's status."""
    entries = live.get("metadata", {}).get("managedFields") or ()
    return tuple(
        Manager(entry["manager"], entry.get("operation", ""), entry.get("subresource", ""), entry.get("fieldsV1") or {})
        for entry in entries
        if isinstance(entry.get("manager"), str)
    )


def owned_fields(live: KubeObject) -> Fields | None:
    """What we have applied of it; None: nothing."""
    return next((each.fields for each in managers_of(live) if each.is_ours), None)


def projection_hash(live: KubeObject, ignored: Iterable[Path] = ()) -> str:
    """16 hex digits over what is ours of a live object, without what is left to others; empty: nothing is ours.

    Of a map or list that we own as a whole the content does not count: who changes it takes it from us, and what is
    added to one that we left empty is not ours.
    """
    fields = owned_fields(live)
    if fields is None:
        return ""
    projected = json.dumps(_projected(without(fields, ignored), live), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(projected.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _projected(fields: Fields, value: Any) -> Any:
    if all(key == "." for key in fields):
        return {"{}": 0} if isinstance(value, dict) else {"[]": 0} if isinstance(value, list) else [value]
    return {key: _projected(sub, child_of(value, key)) for key, sub in fields.items() if key != "."}


def child_of(value: Any, key: str) -> Any:
    """The part of a value that a key of fieldsV1 names; None where there is none."""
    if key.startswith("f:"):
        return value.get(key[2:]) if isinstance(value, dict) else None
    if not isinstance(value, list):
        return None
    if key.startswith("k:"):
        return next((item for item in value if has_keys(item, item_keys(key))), None)
    if key.startswith("v:"):
        wanted = json.loads(key[2:])
        return next((item for item in value if item == wanted and type(item) is type(wanted)), None)
    place = int(key[2:])
    return value[place] if place < len(value) else None


@lru_cache(4096)
def item_keys(key: str) -> tuple[tuple[str, Any], ...]:
    """`k:{"name":"x"}` → the names and values that tell the item from the others."""
    return tuple(json.loads(key[2:]).items())


def has_keys(item: Any, keys: Iterable[tuple[str, Any]]) -> bool:
    """Is it the item of a list with these keys?"""
    return isinstance(item, dict) and all(item.get(name) == value for name, value in keys)


def without(fields: Fields, paths: Iterable[Path]) -> Fields:
    """The fields without those at these paths and below."""
    for path in paths:
        fields = _removed(fields, path)
    return fields


def _removed(fields: Fields, path: Path) -> Fields:
    first, rest = path[0], path[1:]
    hit = [key for key in fields if names(key, first)]
    if not hit:
        return fields
    kept = {key: sub for key, sub in fields.items() if key not in hit}
    if rest:
        kept |= {key: left for key in hit if (left := _removed(fields[key], rest)) or not fields[key]}
    return kept


def names(key: str, step: Step) -> bool:
    """Does a step of a path stand for a key of fieldsV1?"""
    if step is EVERY:
        return key[:2] in ("k:", "v:", "i:")
    if isinstance(step, str):
        return key == f"f:{step}"
    return key.startswith("k:") and step.matches(dict(item_keys(key)))


def concrete_paths(fields: Fields) -> Iterator[tuple[str, ...]]:
    """The fields that are owned, as names one below another; of lists the whole list."""
    for key, sub in fields.items():
        if not key.startswith("f:"):
            continue
        below = list(concrete_paths(sub))
        yield from ((key[2:], *path) for path in below or [()])
