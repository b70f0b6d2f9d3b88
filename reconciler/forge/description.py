"""The one line that a commit status has room for: what is said first stays, what is long gives way. Pure."""

from __future__ import annotations

import re

from reconciler.forge.messages import MOST_DESCRIPTION
from reconciler.report.redact import one_line, scrub_text

_LEAST_MESSAGE = 16
# With what stands before it: `within 600 s`, `2 min ago`, `until 2026-11-30T08:00:00Z`. Not a part of a name, a path
# or a digest: `hunyuan-3d`, `services/7d.yaml`, `1234567d`.
_TIME = re.compile(
    r"(?:\s*\b(?:after|at|for|in|since|until|within))?\s*"
    r"(?:\d{4}-\d\d-\d\dT[\d:.]+(?:Z|[+-]\d\d:\d\d)?"
    r"|(?<![-\w./,])\d[\d.,]{0,5}\s?(?:ms|s|sec|seconds?|min|minutes?|h|hours?|d|days?)\b(?![-/]|\.\w))"
    r"(?:\s+ago\b)?"
)
_PARTS = re.compile(r"(.*) \((\S+)\)(; \S+ is live)?")


def cut(message: str, place: str = "", rest: str = "", head: str = "") -> str:
    """`HEAD MESSAGE (PLACE) REST` within the limit. The message gives way first, then the rest, then the head."""
    message, place, rest, head = (_clean(text) for text in (_TIME.sub("", message), place, rest, head))
    message = message or "no reason is given"
    head = f"{head} " if head else ""
    for kept_head, kept_place, kept_rest in (
        (head, place, rest),
        (head, place, ""),
        (head, _file_name(place), ""),
        ("", _file_name(place), ""),
    ):
        behind = (f" ({kept_place})" if kept_place else "") + kept_rest
        room = MOST_DESCRIPTION - len(kept_head) - len(behind)
        if len(message) <= room:
            return f"{kept_head}{message}{behind}"
        if room >= _LEAST_MESSAGE:
            return f"{kept_head}{_cut_words(message, room)}{behind}"
    return _cut_words(f"{head}{message}", MOST_DESCRIPTION)


def _cut_words(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    kept = text[: most - 1]
    border = kept.rfind(" ")
    # A word that is longer than half of what there is room for is cut in itself.
    return (kept[:border] if border > most // 2 else kept).rstrip(" ,;:(") + "…"


def _clean(text: str) -> str:
    return " ".join(one_line(scrub_text(text)).split())


def _file_name(place: str) -> str:
    return f"…/{place.rpartition('/')[2]}" if "/" in place.rstrip("/") else place


def prefixed(head: str, description: str) -> str:
    """`HEAD: DESCRIPTION` within the limit; its place and its end stay where they can."""
    if known := _PARTS.fullmatch(description):
        return cut(known[1], known[2], known[3] or "", head=f"{head}:")
    return cut(description, head=f"{head}:")
