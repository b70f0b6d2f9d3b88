"""JSON that strangers wrote → values that can be written down again."""

from __future__ import annotations

import json
from typing import Any


def loads(text: str) -> Any:
    """As `json.loads`, but half a character (`"\\ud800"`) becomes U+FFFD, as in Go: no file or socket takes it."""
    value = json.loads(text)
    return json.loads(whole(json.dumps(value, ensure_ascii=False))) if _may_be_half(text) else value


def whole(text: str) -> str:
    """The text without halves of characters."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _may_be_half(text: str) -> bool:
    return "\\ud" in text or "\\uD" in text
