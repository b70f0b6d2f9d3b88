"""JSON as Go writes it, for texts that end up in annotations, variables and templates."""

from __future__ import annotations

import json
from typing import Any

from reconciler.formats import json_values

_ESCAPES = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"})


_COMPLAINTS = {
    "Expecting property name": "looking for beginning of object key string",
    "Expecting value": "looking for beginning of value",
    "Expecting ',' delimiter": "after object key:value pair",
    "Expecting ':' delimiter": "after object key",
    "Illegal trailing comma": "looking for beginning of object key string",
    "Extra data": "after top-level value",
    "Invalid control character": "in string literal",
}
_GO_TYPES = {bool: "bool", int: "number", float: "number", str: "string", list: "array", dict: "object"}


def kind_of(value: Any) -> str:
    """What Go calls the type of a JSON value."""
    return _GO_TYPES.get(type(value), "object")


def loads_object(text: str) -> dict[str, Any]:
    """An object. Raises ValueError with Go's message for what it is instead."""
    try:
        value = json_values.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(_complaint(error)) from None
    except (ValueError, RecursionError):  # a number of thousands of digits, or a thousand levels
        raise ValueError("exceeded max depth") from None
    if not isinstance(value, dict | None):
        raise ValueError(f"json: cannot unmarshal {_GO_TYPES.get(type(value), 'number')} into Go value of type object")
    return value or {}


def loads_texts(text: str) -> dict[str, str]:
    """An object of strings. Raises ValueError with Go's message for what it is instead."""
    try:
        value = json_values.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(_complaint(error)) from None
    except (ValueError, RecursionError):
        raise ValueError("exceeded max depth") from None
    if not isinstance(value, dict | None):
        kind = _GO_TYPES.get(type(value), "number")
        raise ValueError(f"json: cannot unmarshal {kind} into Go value of type map[string]string")
    for item in (value or {}).values():
        if not isinstance(item, str | None):
            kind = _GO_TYPES.get(type(item), "number")
            raise ValueError(f"json: cannot unmarshal {kind} into Go value of type string")
    return {key: item or "" for key, item in (value or {}).items()}


def _complaint(error: json.JSONDecodeError) -> str:
    at = error.pos
    while at < len(error.doc) and error.doc[at] in " \t\r\n":
        at += 1
    if at >= len(error.doc) or error.msg.startswith("Unterminated"):
        return "unexpected end of JSON input"
    for literal in ("true", "false", "null"):
        if error.msg.startswith("Expecting value") and error.doc[at] == literal[0]:
            same = next(
                (n for n, letter in enumerate(literal) if error.doc[at + n : at + n + 1] != letter), len(literal)
            )
            if at + same >= len(error.doc):
                return "unexpected end of JSON input"
            return f"invalid character '{error.doc[at + same]}' in literal {literal} (expecting '{literal[same]}')"
    why = next((go for ours, go in _COMPLAINTS.items() if error.msg.startswith(ours)), "in string escape code")
    return f"invalid character '{error.doc[at]}' {why}"


def dumps(value: Any) -> str:
    """Compact, not ASCII-only, with what HTML gives a meaning to escaped. The order of keys is the caller's."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).translate(_ESCAPES)
