"""The one comment of a pull request that holds the plans of all targets: each daemon writes its own section of it.

Nothing keeps two daemons from editing at once, and the later edit would undo the earlier: after each write the comment
is read again, and the section put back where it is missing. Who still finds it missing then tries again later.
"""

from __future__ import annotations

import hashlib
import random
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass

from reconciler.errors import Retryable
from reconciler.forge.http import ForgeRefused, LoginRefused
from reconciler.forge.messages import Comment, CommentSection
from reconciler.forge.port import Forge

MOST_CHARACTERS = 32_000
"""Of one comment: every forge takes as many. Bitbucket's 32,768 are the fewest, and marks are longer there."""
MOST_SECTIONS = 50
"""Targets beyond these are only counted."""
MARK = "<!-- reconciler: plan -->"
HEAD = f"{MARK}\n### What this pull request would change"
NOTHING = f"{MARK}\n### What this pull request would change\n\nNothing."
MOVED = "The plan of this pull request is in an earlier comment."

_SECTION = re.compile(
    r"^<!-- reconciler: target ([a-z0-9][-a-z0-9]{0,62}) -->\r?\n.*?^<!-- reconciler: end \1 -->[ \t]*(?:\r?\n|\Z)",
    re.MULTILINE | re.DOTALL,
)
_MORE = re.compile(
    r"\s*^<!-- reconciler: more ([0-9a-f,]*) -->\r?\n.*?^<!-- reconciler: end more -->\s*", re.MULTILINE | re.DOTALL
)
_LEAST_ROOM = 500
_CUT = "\n\n… and more; this comment is full."
_TRIES = 5
_MOST_FOREIGN = 10
_PAUSE = 0.5


def merge(body: str, section: CommentSection) -> str:
    """The comment with this section in its place: by name, all others as they are, byte for byte.

    A section without text is taken out. One for which there is no room any more is counted at the end. Pure; the same
    section twice gives the same as once.
    """
    parts = _read(body)
    others = [(name, text) for name, text in parts.sections if name != section.target]
    room = MOST_CHARACTERS - sum(len(text) + 2 for _, text in others) - len(parts.head) - 9 * len(parts.counted) - 200
    counted = parts.counted - {_short(section.target)}
    if not section.text:
        return _written(parts, others, counted)
    # A short one that is there already keeps its place in a comment that others have filled.
    is_full = room < _LEAST_ROOM and len(_block(section, MOST_CHARACTERS)) > room
    if is_full or len(others) >= MOST_SECTIONS:
        return _written(parts, others, counted | {_short(section.target)})
    block = _block(section, room)
    known = [text for name, text in parts.sections if name == section.target]
    if len(known) == 1 and known[0].replace("\r\n", "\n").rstrip() == block and counted == parts.counted:
        return body
    place = next((at for at, (name, _) in enumerate(others) if name > section.target), len(others))
    others.insert(place, (section.target, block))
    return _written(parts, others, counted)


def deliver(forge: Forge, section: CommentSection) -> None:
    """Put the section into the comment, which is made where there is none. Raises as the port; Retryable as well when
    others keep overwriting it."""
    is_added, seen = False, None
    foreign: set[str] = set()
    attempt = 0
    while attempt < _TRIES and len(foreign) <= _MOST_FOREIGN:
        found = [one for one in forge.comments(section.pull_request) if one.id not in foreign]
        first, others = _ours(found)
        before = first.body if first else ""
        after = merge(before, section)
        is_done = after == before or (first is None and not section.text)
        # A forge that shows it otherwise than it was written: writing it again changes nothing.
        is_done = is_done or (first is not None and first == seen and _has(before, section.target))
        if first is not None and not is_done and not _is_edited(forge, section, first, after):
            foreign.add(first.id)
            continue
        if first is not None and (first.is_ours or not is_done):
            # Two daemons made one at once.
            _withdraw(forge, section, others)
        if is_done:
            return
        if first is None and not is_added:
            forge.add_comment(section.pull_request, after)
            is_added = True
        seen = first
        time.sleep(random.uniform(0, _PAUSE * attempt))  # noqa: S311
        attempt += 1
    if first is None:
        # A forge that shows it later: a second one would be worse.
        return
    raise Retryable(
        f"pull request {section.pull_request}: others edit its comment at the same time; trying again later"
    )


def _ours(comments: Sequence[Comment]) -> tuple[Comment | None, Sequence[Comment]]:
    """The first comment with our mark, and further ones. What is known to be a stranger's is none of ours."""
    marked = [one for one in comments if MARK in one.body and one.is_ours is not False]
    certain = [one for one in marked if one.is_ours]
    found = certain or marked
    return (found[0], found[1:]) if found else (None, ())


def _is_edited(forge: Forge, section: CommentSection, comment: Comment, body: str) -> bool:
    """False: it is a stranger's who copied our mark, where the forge does not tell whose it is."""
    try:
        forge.edit_comment(section.pull_request, comment.id, body)
    except (LoginRefused, ForgeRefused):
        if comment.is_ours:
            raise
        return False
    return True


def _has(body: str, target: str) -> bool:
    return any(name == target for name, _ in _read(body).sections)


def _withdraw(forge: Forge, section: CommentSection, others: Sequence[Comment]) -> None:
    """Take our section out of comments that are not the first one."""
    for comment in others:
        if _has(comment.body, section.target):
            after = merge(comment.body, CommentSection(section.pull_request, section.target, ""))
            _is_edited(forge, section, comment, MOVED if after == NOTHING else after)


# ---------------------------------------------------------------- how a comment is written


@dataclass(frozen=True, slots=True)
class _Parts:
    """`head`: what precedes the sections. `sections`: names and texts, with their marks. `counted`: hashes of names."""

    head: str
    sections: tuple[tuple[str, str], ...]
    counted: frozenset[str]


def _read(body: str) -> _Parts:
    """What stands between sections is a person's edit, and goes with the next write."""
    more = _MORE.search(body)
    counted = frozenset(filter(None, more[1].split(","))) if more else frozenset[str]()
    if more:
        body = f"{body[: more.start()]}\n{body[more.end() :]}"
    found = list(_SECTION.finditer(body))
    head = body[: found[0].start()].rstrip() if found else body.rstrip()
    if MARK not in head or head == NOTHING or len(head) > len(HEAD) + 1000:
        head = HEAD
    return _Parts(head, tuple((one[1], one[0].rstrip("\r\n")) for one in found), counted)


def _written(parts: _Parts, sections: Sequence[tuple[str, str]], counted: frozenset[str]) -> str:
    if not sections and not counted:
        return NOTHING
    texts = [parts.head, *(text for _, text in sections)]
    if counted:
        text = f"… and {len(counted)} more target{'s' if len(counted) > 1 else ''}: see their commit statuses."
        names = ",".join(sorted(counted))
        texts.append(f"<!-- reconciler: more {names} -->\n{text}\n<!-- reconciler: end more -->")
    return "\n\n".join(texts)


def _block(section: CommentSection, room: int) -> str:
    """One section with its marks, which its text cannot hold, cut at a line's end."""
    text = section.text.replace("\r\n", "\n").replace("<!--", "&lt;!--").strip("\n")
    start, end = f"<!-- reconciler: target {section.target} -->\n", f"\n<!-- reconciler: end {section.target} -->"
    room -= len(start) + len(end)
    if len(text) > room:
        text = text[: room - len(_CUT)].rpartition("\n")[0] + _CUT
    return start + text.rstrip() + end


def _short(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:8]
