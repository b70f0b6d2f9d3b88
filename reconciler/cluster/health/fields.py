"""Reading objects that other controllers write: a field is there, is absent, or is of a type that makes no sense.

Kubernetes leaves out what is zero or empty, so absent is normal. An odd type raises OddField.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from reconciler.model.objects import KubeObject

_LARGEST = 2**63
_LONGEST_TEXT = 1024


class OddField(Exception):
    """A field has a type that no controller writes there. Its text is the field's path."""


@dataclass(frozen=True, slots=True)
class Condition:
    """An entry of `status.conditions`. `at` is its last transition, `updated_at` the last time it was written."""

    status: str
    reason: str = ""
    message: str = ""
    at: float | None = None
    updated_at: float | None = None

    @property
    def is_true(self) -> bool:
        return self.status == "True"

    @property
    def is_false(self) -> bool:
        return self.status == "False"


def mapping(parent: KubeObject, *path: str) -> KubeObject:
    """The mapping at a path, empty where there is none. Raises OddField."""
    for key in path:
        found = parent.get(key)
        if found is None:
            return {}
        # What JSON gives: a test for any Mapping costs ten times as much.
        if not isinstance(found, dict):
            raise OddField(".".join(path[: path.index(key) + 1]))
        parent = found
    return parent


def listed(parent: KubeObject, *path: str) -> tuple[object, ...]:
    """The list at a path, empty where there is none. Raises OddField."""
    found = mapping(parent, *path[:-1]).get(path[-1])
    if found is None:
        return ()
    if not isinstance(found, list):
        raise OddField(".".join(path))
    return tuple(found)


def mappings(parent: KubeObject, *path: str) -> tuple[KubeObject, ...]:
    """The list of mappings at a path, empty where there is none. Raises OddField."""
    found = listed(parent, *path)
    mapped = tuple(each for each in found if isinstance(each, dict))
    if len(mapped) != len(found):
        raise OddField(".".join(path))
    return mapped


def text(parent: KubeObject, *path: str) -> str:
    """The text at a path, "" where there is none. Raises OddField."""
    found = (mapping(parent, *path[:-1]) if len(path) > 1 else parent).get(path[-1])
    if found is None:
        return ""
    if not isinstance(found, str):
        raise OddField(".".join(path))
    return found


def count(parent: KubeObject, *path: str) -> int | None:
    """The count at a path, None where there is none. Raises OddField."""
    found = mapping(parent, *path[:-1]).get(path[-1])
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found < _LARGEST:
        raise OddField(".".join(path))
    return found


def flag(parent: KubeObject, *path: str) -> bool:
    """The boolean at a path, False where there is none. Raises OddField."""
    found = mapping(parent, *path[:-1]).get(path[-1])
    if found is None:
        return False
    if not isinstance(found, bool):
        raise OddField(".".join(path))
    return found


def time(parent: KubeObject, *path: str) -> float | None:
    """The time at a path in seconds since the epoch, None where there is none. Raises OddField."""
    found = text(parent, *path)
    at = _parsed(found) if found else None
    if found and at is None:
        raise OddField(".".join(path))
    return at


@lru_cache(16384)
def _parsed(written: str) -> float | None:
    try:
        at = datetime.fromisoformat(written)
        return at.timestamp() if at.tzinfo else None
    except (ValueError, OverflowError):
        return None


def conditions(body: KubeObject) -> Mapping[str, Condition]:
    """`status.conditions` by type. Raises OddField."""
    return {
        text(each, "type"): Condition(
            text(each, "status"),
            text(each, "reason"),
            shortened(text(each, "message")),
            time(each, "lastTransitionTime"),
            time(each, "lastUpdateTime"),
        )
        for each in mappings(body, "status", "conditions")
    }


NO_CONDITION = Condition("")


def shortened(message: str) -> str:
    """One line of readable length: controllers put whole logs into messages."""
    line = " ".join(message.split())
    return line if len(line) <= _LONGEST_TEXT else line[:_LONGEST_TEXT] + " …"


def name_of(body: KubeObject) -> str:
    """Its name. Raises OddField."""
    return text(body, "metadata", "name")


def edited_at(body: KubeObject) -> float | None:
    """When anyone last changed the spec, an autoscaler aside: the API server notes it, in whole seconds.
    Raises OddField."""
    return _written_at(body, "f:spec", "") or time(body, "metadata", "creationTimestamp")


def answered_at(body: KubeObject) -> float | None:
    """When a controller last changed the status, in whole seconds. Raises OddField."""
    return _written_at(body, "f:status", "status")


def touched_at(body: KubeObject) -> float | None:
    """When anyone last changed anything of it, in whole seconds. Raises OddField."""
    times = [time(each, "time") for each in mappings(body, "metadata", "managedFields")]
    return max((each for each in times if each is not None), default=time(body, "metadata", "creationTimestamp"))


def _written_at(body: KubeObject, part: str, subresource: str) -> float | None:
    """Which fields others wrote is not kept: then it may have been any."""
    times = [
        time(each, "time")
        for each in mappings(body, "metadata", "managedFields")
        if text(each, "subresource") == subresource and ("fieldsV1" not in each or part in mapping(each, "fieldsV1"))
    ]
    return max((each for each in times if each is not None), default=None)
