"""What YAML's reader does not take of JSON: characters as two `\\u` escapes, and objects one after another."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

MAX_OBJECTS = 500
_BLANK = re.compile(r"[ \t\r\n]*")
_ESCAPE = re.compile(rb"\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})|\\.", re.DOTALL)


def is_json(text: bytes) -> bool:
    """Does it begin as a JSON object does?"""
    return text.lstrip(b" \t\r\n")[:1] == b"{"


def join_surrogates(text: bytes) -> bytes:
    """YAML has one escape for a character beyond 16 bits, where JSON has two. Lines stay as they are."""
    return _ESCAPE.sub(_joined, text) if b"\\u" in text else text


def split_objects(text: bytes, first_line: int) -> Iterator[tuple[int, bytes]]:
    """Objects that follow each other without a separator, as kubectl reads them; nothing where it is no such text."""
    content, at = text.decode(), 0
    found: list[tuple[int, bytes]] = []
    decoder = json.JSONDecoder()
    try:
        while len(found) <= MAX_OBJECTS and (start := _next(content, at)) < len(content):
            _, at = decoder.raw_decode(content, start)
            found.append((first_line + content.count("\n", 0, start), content[start:at].encode()))
    except (ValueError, RecursionError):
        return
    if 1 < len(found) <= MAX_OBJECTS:
        yield from found


def _next(text: str, at: int) -> int:
    """Where the next thing begins that is no blank."""
    match = _BLANK.match(text, at)
    return match.end() if match else at


def _joined(match: re.Match[bytes]) -> bytes:
    if match[1] is None:
        return match[0]
    high, low = int(match[1], 16) - 0xD800, int(match[2], 16) - 0xDC00
    return b"\\U%08X" % (0x10000 + (high << 10) + low)
