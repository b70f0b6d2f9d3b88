"""Commits' trailers `Reconciler-Approve: HASH`, read within limits."""

from __future__ import annotations

import re
from collections.abc import Iterator

from reconciler.model import CommitApproval
from reconciler.source.mirror import Endless, Mirror

TRAILER = "Reconciler-Approve"
_HASH = re.compile(r"[0-9a-f]{8,64}")
# Whoever can push writes these: more of them are not read, and approve nothing.
_MOST_COMMITS = 100
_MOST_BYTES = 64 << 10
_LONGEST_AUTHOR = 100
_FORMAT = f"%H%n%an%n%(trailers:key={TRAILER},valueonly,unfold)"


def read_approvals(mirror: Mirror, since: str, revision: str) -> tuple[CommitApproval, ...]:
    """Those in the commits after `since`, newest first; of the revision's own commit alone where that is not here."""
    is_known = since != revision and bool(since) and mirror.commit(since) is not None
    commits = ("--max-count", str(_MOST_COMMITS), f"{since}..{revision}") if is_known else ("-1", revision)
    try:
        text = mirror.read("log", "-z", "--no-show-signature", f"--format={_FORMAT}", *commits, "--", most=_MOST_BYTES)
    except Endless:
        return ()
    return tuple(found for one in text.decode("utf-8", "replace").split("\0") for found in _of_commit(one))


def _of_commit(text: str) -> Iterator[CommitApproval]:
    commit, _, rest = text.strip("\n").partition("\n")
    author, _, values = rest.partition("\n")
    shown = "".join(character for character in author if character.isprintable())[:_LONGEST_AUTHOR]
    for value in values.split():
        if _HASH.fullmatch(value.lower()):
            yield CommitApproval(value.lower(), commit, shown)
