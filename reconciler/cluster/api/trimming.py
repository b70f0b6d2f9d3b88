"""Live objects without what we never read: a fraction of the memory, and no value of a Secret. Pure.

Every object that this package gives is trimmed alike, so that equal objects are equal whoever read them:

- `metadata.managedFields`: entries about status, and those of what a controller made (pods), keep all but `fieldsV1`;
  what git may have keeps the rest, which says who changed what;
- values in `data` of Secrets other than our own records, and kubectl's copy of what it applied: their hash.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from reconciler.model.objects import KubeObject

OUR_MANAGER = "reconciler"
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
OWN_RECORD = "reconciler/service-record"
"""Type of the Secrets in which we remember what a service was: these we read."""
_HASH = "sha256:"
# Keys and short values repeat in thousands of objects.
_SHARED_TEXT = 64


def trimmed(found: dict[str, Any]) -> KubeObject:
    """The object without what we never read. It takes over `found`."""
    kept: dict[str, Any] = _shared(found)
    metadata = kept.get("metadata")
    if isinstance(metadata, dict):
        _trim_metadata(metadata)
    if kept.get("kind") == "Secret" and kept.get("apiVersion") == "v1" and kept.get("type") != OWN_RECORD:
        for part in ("data", "stringData"):
            if isinstance(kept.get(part), dict):
                kept[part] = {key: hashed(value) for key, value in kept[part].items()}
    return kept


def hashed(value: object) -> str:
    """What stands for a value that is not kept."""
    return _HASH + hashlib.sha256(str(value).encode("utf-8", "surrogatepass")).hexdigest()


def is_hash(value: object) -> bool:
    """Does it stand for a value that is not kept? Then it must not be written anywhere."""
    return isinstance(value, str) and value.startswith(_HASH)


def _trim_metadata(metadata: dict[str, Any]) -> None:
    entries = metadata.get("managedFields")
    if isinstance(entries, list):
        is_made = any(each.get("controller") for each in metadata.get("ownerReferences") or ())
        metadata["managedFields"] = [_trim_entry(entry, is_made) for entry in entries if isinstance(entry, dict)]
    annotations = metadata.get("annotations")
    if isinstance(annotations, dict) and LAST_APPLIED in annotations:
        annotations[LAST_APPLIED] = hashed(annotations[LAST_APPLIED])


def _trim_entry(entry: Mapping[str, Any], is_made: bool) -> dict[str, Any]:
    kept = {key: value for key, value in entry.items() if key != "fieldsV1"}
    is_needed = entry.get("manager") == OUR_MANAGER or not is_made
    if is_needed and entry.get("subresource") != "status" and "fieldsV1" in entry:
        # Objects of one kind mostly have the same fields: they share one tree.
        kept["fieldsV1"] = _fields(json.dumps(entry["fieldsV1"]))
    return kept


@lru_cache(maxsize=512)
def _fields(text: str) -> Any:
    return _shared(json.loads(text))


def _shared(value: Any) -> Any:
    """The same value, whose keys and short texts are kept once for all objects."""
    if isinstance(value, dict):
        return {sys.intern(key): _shared(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_shared(item) for item in value]
    return sys.intern(value) if isinstance(value, str) and len(value) <= _SHARED_TEXT else value
