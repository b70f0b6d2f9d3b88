"""Paths of fields as an API server writes them → as git's lines are kept: `spec.containers.0.image`. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

# `.spec`, `metadata`, `[0]`, `[name="x",protocol="TCP"]`, `[="a"]` (a value of a set), `[example.com/key]` (of a map).
_STEP = re.compile(r"""\.?(?P<name>[^.\[\]]+)|\[(?P<inside>(?:[^\]"]|"(?:[^"\\]|\\.)*")*)\]""")
_PAIR = re.compile(r"""(?P<key>[^=,"]*)=(?P<value>"(?:[^"\\]|\\.)*"|[^,]*)""")


def field_path(written: str, body: Mapping[str, Any] | None) -> str:
    """The path of a field that a message of the API server names; "" is the whole object.

    An item of a list is named by its place in `body`, the object that was sent; where that lacks it, by its key.
    """
    steps: list[str] = []
    at: Any = body
    for found in _STEP.finditer(written):
        step = found["name"] if found["name"] is not None else _inside(found["inside"], at)
        if step:
            steps.append(step)
            at = _below(at, step)
    return ".".join(steps)


def _inside(text: str, at: Any) -> str:
    """What stands between brackets, as one step: an index, the key of a map, or an index found by an item's keys."""
    pairs = {pair["key"].strip(): _value(pair["value"]) for pair in _PAIR.finditer(text)}
    if not pairs:
        return text.strip('"')
    for index, item in enumerate(at if isinstance(at, list) else ()):
        if _is_item(item, pairs):
            return str(index)
    return ",".join(map(str, pairs.values()))


def _is_item(item: Any, pairs: Mapping[str, Any]) -> bool:
    """Has it these keys? What git leaves out the server sets by default: a port's protocol."""
    found = {key: item if not key else _below(item, key) for key in pairs}
    return any(value is not None for value in found.values()) and all(
        value in (None, pairs[key]) for key, value in found.items()
    )


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _below(at: Any, step: str) -> Any:
    if isinstance(at, Mapping):
        return at.get(step)
    if isinstance(at, list) and step.isdecimal() and int(step) < len(at):
        return at[int(step)]
    return None
