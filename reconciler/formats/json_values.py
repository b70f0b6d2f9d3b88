"""JSON that strangers, or other versions of us, wrote → values that can be used."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any


def loads(text: str) -> Any:
    """As `json.loads`, but half a character (`"\\ud800"`) becomes U+FFFD, as in Go: no file or socket takes it."""
    value = json.loads(text, parse_constant=_no_number, parse_float=_finite)
    return json.loads(whole(json.dumps(value, ensure_ascii=False))) if _may_be_half(text) else value


def known_part(kind: Any, found: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a dataclass that stand there: a newer version may have written more. Raises TypeError."""
    if not isinstance(found, Mapping):
        raise TypeError("expected an object")
    return {each.name: found[each.name] for each in fields(kind) if each.name in found}


def _no_number(word: str) -> float:
    raise json.JSONDecodeError("Expecting value", word, 0)


def _finite(text: str) -> float:
    if math.isinf(number := float(text)):
        raise ValueError(f"{text[:20]} is more than a number can be")
    return number


def whole(text: str) -> str:
    """The text without halves of characters."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _may_be_half(text: str) -> bool:
    return "\\ud" in text or "\\uD" in text
