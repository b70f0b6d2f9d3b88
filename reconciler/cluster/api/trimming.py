"""Live objects without what we never read: a fraction of the memory, and no value of a Secret. Pure.

Every object that this package gives is trimmed alike, so that equal objects are equal whoever read them:

- `metadata.managedFields`: entries about status, and those of what a controller made (pods), keep all but `fieldsV1`;
  what git may have keeps the rest, which says who changed what;
- values in `data` of Secrets other than our own records, and kubectl's copy of what it applied: their hash.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from typing import Any

from reconciler.model.objects import KubeObject

OUR_MANAGER = "reconciler"
"""The field manager that we apply as."""
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
OWN_RECORD = "reconciler/service-record"
"""Type of the Secrets in which we remember what a service was: these we read."""
_HASH = "sha256:"
# Keys and short values repeat in thousands of objects.
_SHARED_TEXT = 64


def trimmed(found: Mapping[str, Any]) -> KubeObject:
    """The object without what we never read. It shares its parts with others: never change it."""
    kept = dict(found)
    if isinstance(metadata := found.get("metadata"), dict):
        kept["metadata"] = _trimmed_metadata(metadata)
    if found.get("kind") == "Secret" and found.get("apiVersion") == "v1" and found.get("type") != OWN_RECORD:
        for part in ("data", "stringData"):
            if isinstance(values := found.get(part), dict):
                kept[part] = {key: hashed(value) for key, value in values.items()}
    shared: KubeObject = _shared(kept)
    return shared


def hashed(value: object) -> str:
    """What stands for a value that is not kept."""
    return _HASH + hashlib.sha256(str(value).encode("utf-8", "surrogatepass")).hexdigest()


def is_hash(value: object) -> bool:
    """Does it stand for a value that is not kept? Then it must not be written anywhere."""
    return isinstance(value, str) and value.startswith(_HASH)


def _trimmed_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    kept = dict(metadata)
    if isinstance(entries := metadata.get("managedFields"), list):
        is_made = any(each.get("controller") for each in metadata.get("ownerReferences") or ())
        kept["managedFields"] = [_trimmed_entry(entry, is_made) for entry in entries if isinstance(entry, dict)]
    annotations = metadata.get("annotations")
    if isinstance(annotations, dict) and LAST_APPLIED in annotations:
        kept["annotations"] = {**annotations, LAST_APPLIED: hashed(annotations[LAST_APPLIED])}
    return kept


def _trimmed_entry(entry: Mapping[str, Any], is_made: bool) -> dict[str, Any]:
    kept = {key: value for key, value in entry.items() if key != "fieldsV1"}
    is_needed = entry.get("manager") == OUR_MANAGER or not is_made
    if is_needed and entry.get("subresource") != "status" and "fieldsV1" in entry:
        kept["fieldsV1"] = entry["fieldsV1"]
    return kept


# Parts of objects, by what they are made of: each is kept once, as most pods differ in little.
_PARTS: dict[tuple[object, ...], Any] = {}
_MOST_PARTS = 20_000


def _shared(value: Any) -> Any:
    """The same value, whose parts are the same objects as the equal parts of others."""
    if isinstance(value, dict):
        made: Any = {sys.intern(key): _shared(item) for key, item in value.items()}
        return _once(made, tuple(made), *map(_name, made.values()))
    if isinstance(value, list):
        made = [_shared(item) for item in value]
        return _once(made, *map(_name, made))
    return sys.intern(value) if isinstance(value, str) and len(value) <= _SHARED_TEXT else value


def _name(value: Any) -> object:
    """What tells a value from others. A part that is kept lives as long as what names it here."""
    if isinstance(value, str):
        return value
    return (id(value),) if isinstance(value, dict | list) else (type(value), value)


def _once(made: Any, *key: object) -> Any:
    if len(_PARTS) >= _MOST_PARTS:
        _PARTS.clear()
    return _PARTS.setdefault((type(made), *key), made)
