"""What people are shown of commits, from our mirror alone: nothing is fetched, and no lock is taken or waited for.

While git is asked for another revision these are read beside it; a mirror that is rebuilt just then gives no answer.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from reconciler.errors import Retryable
from reconciler.source.access import Folder, local_environment
from reconciler.source.git import GitFailed, GitSaidTooMuch, run_git

_T = TypeVar("_T")
MOST_FILES = 500
"""So many changed files of one commit are named."""
# One page waits so long for its turn, and for one answer of git.
_PATIENCE = 3.0
_MOST_MESSAGE, _MOST_LISTING = 1 << 20, 4 << 20
_LONGEST_NAME, _LONGEST_SUBJECT, _LONGEST_BODY = 200, 300, 4_000
_KEPT = 256
# The year 9999, which is as far as a calendar here goes.
_LATEST = 253_370_764_800
_FULL = re.compile(r"[0-9a-f]{40}")
_ABOUT = "%H%x00%P%x00%an%x00%ae%x00%at%x00%cn%x00%ce%x00%ct"
# Contents that are larger count as binary: lines of a file without end take as long to compare.
_SMALL = ("-c", "core.bigFileThreshold=1m")


@dataclass(frozen=True, slots=True)
class Person:
    """As the commit says, which nobody checked. `at`: seconds since 1970."""

    name: str
    email: str
    at: int


@dataclass(frozen=True, slots=True)
class ChangedFile:
    """Lines of a file that a commit added and deleted; None where they are not counted: binary, or large."""

    path: str
    added: int | None
    deleted: int | None


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit. `files` are those that differ from its first parent, at most `MOST_FILES` of `file_count`, which is
    None where they are too many to list."""

    revision: str
    parents: tuple[str, ...]
    author: Person
    committer: Person
    subject: str
    body: str
    files: tuple[ChangedFile, ...] = ()
    file_count: int | None = 0


@dataclass(frozen=True, slots=True)
class CommitLine:
    """One commit in a list."""

    subject: str
    author: str
    at: int


class Commits:
    """The commits of one mirror, for any number of threads. What was read once is kept: a commit never changes."""

    def __init__(self, mirror: Path) -> None:
        self._folder = Folder(mirror.absolute())
        self._turn = threading.Lock()
        self._commits: OrderedDict[str, Commit] = OrderedDict()
        self._lines: OrderedDict[str, CommitLine] = OrderedDict()

    def find(self, prefix: str) -> str | None:
        """The one commit whose id begins like this, of at least 7 digits; None: there is none, or several."""
        if not re.fullmatch(r"[0-9a-f]{7,40}", prefix):
            return None
        if prefix in self._commits:
            return prefix
        try:
            with self._asking():
                said = self._git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{prefix}^{{commit}}")
        except GitFailed:
            return None
        return said.decode().strip()

    def read(self, revision: str) -> Commit | None:
        """`revision`: 40 digits. None: it is not here. Raises Retryable where git is busy, or takes too long."""
        if not _FULL.fullmatch(revision):
            return None
        if (known := self._commits.get(revision)) is not None:
            return known
        try:
            with self._asking():
                commit = self._read(revision)
        except GitFailed:
            return None
        if commit is not None:
            _keep(self._commits, {revision: commit})
        return commit

    def lines(self, revisions: Collection[str]) -> Mapping[str, CommitLine]:
        """By revision, of those that are here."""
        wanted = [one for one in dict.fromkeys(revisions) if _FULL.fullmatch(one) and one not in self._lines]
        if wanted:
            try:
                with self._asking():
                    _keep(self._lines, self._read_lines(wanted))
            except GitFailed:
                pass
        return {one: line for one in revisions if (line := self._lines.get(one))}

    # ------------------------------------------------------------ git

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """One at a time: a crowd of readers starts no crowd of programs."""
        if not self._turn.acquire(timeout=_PATIENCE):
            raise Retryable("git is being read for others; reload the page")
        try:
            yield
        finally:
            self._turn.release()

    def _git(self, *arguments: str, stdin: bytes = b"", most: int = _MOST_MESSAGE) -> bytes:
        env = local_environment(self._folder)
        command = (*_SMALL, f"--git-dir={self._folder.repository}", *arguments)
        return run_git(*command, env=env, timeout=_PATIENCE, stdin=stdin, most=most)

    def _log(self, revision: str, text: str) -> list[str]:
        said = self._git("log", "-1", "--no-show-signature", "--no-notes", f"--format={text}", revision, "--")
        return said.decode("utf-8", "replace").split("\0")

    def _read(self, revision: str) -> Commit | None:
        try:
            known = self._log(revision, f"{_ABOUT}%x00%s%x00%b")
        except GitSaidTooMuch:
            known = [*self._log(revision, _ABOUT), "", f"(a message of more than {_MOST_MESSAGE:,} bytes)"]
        if known[0] != revision:
            # A tag's id, or a tree's.
            return None
        parents = tuple(known[1].split())
        files, count = self._files(revision, parents)
        return Commit(
            revision,
            parents,
            _person(*known[2:5]),
            _person(*known[5:8]),
            known[8].strip()[:_LONGEST_SUBJECT],
            _cut(known[9].strip(), _LONGEST_BODY),
            files,
            count,
        )

    def _files(self, revision: str, parents: tuple[str, ...]) -> tuple[tuple[ChangedFile, ...], int | None]:
        compared = (parents[0], revision) if parents else ("--root", revision)
        plain = ("--no-commit-id", "--no-renames", "--no-ext-diff", "--no-textconv", "--numstat", "-r", "-z")
        try:
            said = self._git("diff-tree", *plain, *compared, "--", most=_MOST_LISTING)
        except GitFailed:
            # Too many, too slow to compare, or a parent that is not here.
            return (), None
        rows = said.decode("utf-8", "replace").split("\0")[:-1]
        return tuple(map(_changed_file, rows[:MOST_FILES])), len(rows)

    def _read_lines(self, revisions: list[str]) -> dict[str, CommitLine]:
        asked = "".join(f"{one}\n" for one in revisions).encode()
        known = ("--no-walk=unsorted", "--ignore-missing", "--stdin", "-z", "--no-show-signature", "--no-notes")
        said = self._git("log", *known, "--format=%H%x01%at%x01%an%x01%s", stdin=asked).decode("utf-8", "replace")
        found = {}
        for one in filter(None, said.split("\0")):
            revision, at, author, subject = one.strip("\n").split("\x01", 3)
            found[revision] = CommitLine(subject[:_LONGEST_SUBJECT], author[:_LONGEST_NAME], _second(at))
        return found


def _keep(known: OrderedDict[str, _T], new: Mapping[str, _T]) -> None:
    known.update(new)
    while len(known) > _KEPT:
        known.popitem(last=False)


def _person(name: str, email: str, at: str) -> Person:
    return Person(name[:_LONGEST_NAME], email[:_LONGEST_NAME], _second(at))


def _second(text: str) -> int:
    # git says nothing, or a number without end, where the commit holds no date that it can read.
    return min(int(text.strip()[:20] or 0), _LATEST)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}… ({len(text):,} characters)"


def _changed_file(row: str) -> ChangedFile:
    added, deleted, path = row.split("\t", 2)
    return ChangedFile(path, *(None if one == "-" else int(one) for one in (added, deleted)))
