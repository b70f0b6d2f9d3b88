"""Our bare copy of the repository, and the one revision of it that was accepted last."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from reconciler.errors import Retryable, Terminal
from reconciler.formats.json_values import known_part
from reconciler.source.access import Folder, local_environment, sync_folder, write_file
from reconciler.source.git import LONGEST_ANSWER, Ending, GitFailed, GitSaidTooMuch, GitTimedOut, await_lock, run_git
from reconciler.source.trusted_keys import TrustedKeys

_ACCEPTED = "refs/reconciler/accepted"
# A fetch may take so many times as long as a call may be silent.
_IN_ALL = 60
_KEPT = "the last good revision stays"
_TOO_LARGE = (
    f"and source.max_repository_bytes allows no more; {_KEPT}. Take large files out of its history, or raise it"
)
# Of some hundred signatures.
_LONGEST_VERDICT = 4 << 20
_COMING = "objects/pack/tmp_*"
_LEFTOVERS = ("*.lock", "refs/**/*.lock", _COMING, "objects/incoming-*", "objects/info/*.lock")


@dataclass(frozen=True, slots=True)
class Accepted:
    """The last good revision, and by which name of which repository it was found (`ref` is empty for a bare commit).

    `since` is the revision that was accepted before it, `rewrite` the first one after the latest rewrite of history.
    """

    revision: str
    url: str
    ref: str
    since: str = ""
    rewrite: str = ""

    @property
    def name(self) -> tuple[str, str]:
        return self.url, self.ref


@dataclass(frozen=True, slots=True)
class VerifiedRevision:
    """A revision whose signatures are good, by which keys and rules, and who signed it."""

    revision: str
    rules: str
    name: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class RejectedRevision:
    """A revision that could not be read, why, and by which reader: another one may succeed."""

    revision: str
    why: str
    reader: str


_T = TypeVar("_T", Accepted, RejectedRevision, VerifiedRevision)


class Damaged(Exception):
    """The mirror does not hold what it must, or holds something else: rebuild it."""


class Endless(Terminal):
    """git's output about a revision is endless."""


@dataclass(frozen=True, slots=True)
class _Limit:
    """What one fetch may add to the `before` bytes that the mirror has."""

    before: int
    most: int
    free: int
    folder: Path

    @property
    def bytes(self) -> int:
        return min(self.most, self.free)

    def check(self, added: int) -> None:
        """Raises Terminal, or Retryable where it is the disk that is too small."""
        if added <= self.bytes:
            return
        if self.free < self.most:
            text = f"it sends more than {self.free:,} bytes, half of what is free for {self.folder}; {_KEPT}"
            raise Retryable(f"{text}; free some space there") from None
        raise Terminal(f"it sends more than {self.most:,} bytes, {_TOO_LARGE}") from None


class Mirror:
    """A bare repository in a folder of its own. Any method may raise Damaged, or Retryable when git takes too long."""

    def __init__(self, folder: Folder, timeout: float, ending: Ending) -> None:
        self.folder = folder
        self._ending = ending
        self._timeout = timeout
        self._env = local_environment(folder)
        self._held: tuple[int, ...] = ()

    @contextlib.contextmanager
    def exclusive(self, local: Path | None) -> Iterator[None]:
        """Only one process at a time may change the mirror. git's children inherit the lock.

        So a fetch that outlived a killed daemon is waited for, and the holder of the lock knows that files which an
        interrupted git left behind are unused.
        """
        self.folder.prepare(local)
        try:
            descriptor = os.open(self.folder.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Retryable(
                f"{self.folder.lock}: cannot be opened: {error.strerror}; check the disk and the owner of state_dir"
            ) from None
        try:
            mark = f"GIT_CONFIG_GLOBAL={self.folder.gitconfig}"
            await_lock(descriptor, self.folder.lock, mark, self._timeout, self._ending)
            self._held = (descriptor,)
            self._tidy()
            yield
        finally:
            self._held = ()
            os.close(descriptor)

    def _tidy(self) -> None:
        repository = self.folder.repository
        if not (repository / "HEAD").is_file() or not (repository / "objects").is_dir():
            self.rebuild()
        self._remove_leftovers()

    def _remove_leftovers(self) -> None:
        for pattern in _LEFTOVERS:
            for leftover in self.folder.repository.glob(pattern):
                _remove(leftover)

    def rebuild(self) -> None:
        """Begin again with an empty mirror. What was accepted stays recorded next to it."""
        repository, fresh = self.folder.repository, self.folder.root / "repository.new"
        try:
            shutil.rmtree(fresh, ignore_errors=True)
            self._git("init", "--quiet", "--bare", "--template=", "--initial-branch=main", "--", str(fresh))
            _remove(repository)
            fresh.rename(repository)
            sync_folder(self.folder.root)
        except OSError as error:
            raise Retryable(f"cannot rebuild {repository}: {error.strerror}; check the disk and its owner") from None

    def _git(self, *arguments: str, stdin: bytes = b"", most: int = LONGEST_ANSWER) -> bytes:
        held = self._held
        try:
            return run_git(*arguments, env=self._env, timeout=self._timeout, stdin=stdin, keep_open=held, most=most)
        except GitTimedOut as error:
            # Slow is not damaged.
            raise Retryable(f"git on {self.folder.root}: {error.output}; raise source.timeout if this stays") from None

    def _here(self, *arguments: str, stdin: bytes = b"", most: int = LONGEST_ANSWER) -> bytes:
        return self._git(f"--git-dir={self.folder.repository}", *arguments, stdin=stdin, most=most)

    def read(self, *arguments: str, stdin: bytes = b"", most: int = LONGEST_ANSWER) -> bytes:
        """The output of one git command that only reads the mirror, and always succeeds on an intact mirror.

        Raises Endless after `most` bytes: a small tree may name itself again and again.
        """
        try:
            return self._here(*arguments, stdin=stdin, most=most)
        except GitSaidTooMuch as error:
            raise Endless(f"git {arguments[0]}: {error.output}; the last good revision stays") from None
        except GitFailed as error:
            raise Damaged(error.output) from None

    def fetch(self, url: str, refspecs: tuple[str, ...], env: dict[str, str], most: int) -> None:
        """Get these references with their whole history, so that ancestry can be proved. Raises GitFailed.

        A large repository on a slow line takes its time: what counts is that it goes on, and that neither the mirror
        before nor what comes has more than `most` bytes, or fills the disk.
        """
        limit = _Limit(self._make_room(most), most, shutil.disk_usage(self.folder.root).free // 2, self.folder.root)

        def watch() -> None:
            self._ending.check()
            # A server that hands out files one by one makes many of them.
            limit.check(self._bytes() - limit.before)

        try:
            run_git(
                f"--git-dir={self.folder.repository}",
                *("fetch", "--progress", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--prune"),
                *("--no-show-forced-updates", "--", url, *refspecs),
                env=env,
                timeout=self._timeout,
                keep_open=self._held,
                in_all=_IN_ALL * self._timeout,
                largest_file=limit.bytes,
                watch=watch,
            )
        except GitFailed:
            # It tells nothing of a limit on its files that it ran into; what it wrote until then does.
            limit.check(max((_size(each) for each in self.folder.repository.glob(_COMING)), default=0) + 1)
            raise
        finally:
            self._remove_leftovers()

    def _make_room(self, most: int) -> int:
        """Drop what was fetched once and belongs to nothing that is kept, when there is too much. Returns the bytes."""
        if (held := self._bytes()) < most:
            return held
        with contextlib.suppress(GitFailed):
            names = self._here("for-each-ref", "--format=%(refname)").decode("utf-8", "surrogateescape").split()
            commands = "".join(f"delete {name}\n" for name in names if name != _ACCEPTED)
            self._here("update-ref", "--stdin", stdin=commands.encode("utf-8", "surrogateescape"))
        everything = ("-c", "gc.bigPackThreshold=0", "gc", "--quiet", "--prune=now")
        with contextlib.suppress(GitFailed):
            run_git(
                *(f"--git-dir={self.folder.repository}", *everything),
                env=self._env,
                timeout=_IN_ALL * self._timeout,
                keep_open=self._held,
            )
        if (held := self._bytes()) >= most:
            raise Terminal(f"what was fetched of it has {held:,} bytes already, {_TOO_LARGE}")
        return held

    def _bytes(self) -> int:
        return sum(_size(Path(place) / name) for place, _, names in os.walk(self._objects) for name in names)

    @property
    def _objects(self) -> Path:
        return self.folder.repository / "objects"

    def commit(self, name: str) -> str | None:
        """The commit that a reference of the mirror or an object id leads to, if it is here."""
        return self.object(f"{name}^{{commit}}")

    def object(self, name: str) -> str | None:
        """What a reference itself names: a commit, or a tag that leads to one."""
        try:
            return self._here("rev-parse", "--verify", "--quiet", "--end-of-options", name).decode().strip()
        except GitFailed:
            return None

    def ask_about_signatures(self, keys: TrustedKeys, *arguments: str) -> tuple[bool, str]:
        """Are they all good, by git's own judgement; and what was said of them, which others wrote parts of."""
        command = (*keys.options, f"--git-dir={self.folder.repository}", *arguments)
        try:
            said = run_git(
                *command,
                env=self._env | keys.env,
                timeout=self._timeout,
                keep_open=self._held,
                most=_LONGEST_VERDICT,
                watch=self._ending.check,
                with_errors=True,
            )
        except GitTimedOut as error:
            raise Retryable(f"signatures are not verified: {error.output}") from None
        except GitFailed as error:
            return False, error.output
        return True, said.decode("utf-8", "replace")

    def is_ancestor(self, old: str, new: str) -> bool:
        """Is `old` part of the history of `new`? A commit that is not here at all cannot be."""
        try:
            self._here("merge-base", "--is-ancestor", old, new)
        except GitFailed as error:
            if error.status == 1 or self.commit(old) is None:
                return False
            raise Damaged(error.output) from None
        return True

    def is_sound(self) -> bool:
        """Does everything that the references need exist?"""
        try:
            self._here("fsck", "--connectivity-only", "--no-dangling", "--no-progress")
        except GitFailed:
            return False
        return True

    def accepted(self) -> Accepted | None:
        """What was accepted last. It is written outside the repository, so that rebuilding keeps it.

        Where that is lost, the reference still leads to the revision, though no longer to the name it was found by.
        """
        found = _read(self.folder.accepted, Accepted)
        if found is not None and re.fullmatch(r"[0-9a-f]{40}", found.revision):
            return found
        commit = self.commit(_ACCEPTED)
        return Accepted(commit, "", "") if commit else None

    def refused(self) -> RejectedRevision | None:
        """The revision that was not understood last."""
        return _read(self.folder.refused, RejectedRevision)

    def refuse(self, refused: RejectedRevision) -> None:
        """Record why a revision is not accepted. If the disk is full it is only checked again."""
        with contextlib.suppress(OSError):
            _write(self.folder.refused, refused)

    def verified(self) -> VerifiedRevision | None:
        """The revision whose signatures were good last."""
        return _read(self.folder.verified, VerifiedRevision)

    def note_verified(self, verified: VerifiedRevision) -> None:
        """Record it. If the disk is full it is only verified again."""
        with contextlib.suppress(OSError):
            _write(self.folder.verified, verified)

    def forget_refused(self) -> None:
        """Have it checked again."""
        with contextlib.suppress(OSError):
            self.folder.refused.unlink(missing_ok=True)

    def accept(self, accepted: Accepted) -> None:
        """Remember a revision. The reference keeps its objects from being tidied away; the file is what counts.

        Killed between the two, the file still names the older revision, and the next poll accepts the newer one again.
        """
        try:
            self._here("update-ref", _ACCEPTED, accepted.revision)
            _write(self.folder.accepted, accepted)
        except (OSError, GitFailed) as error:
            why = error.output.strip() if isinstance(error, GitFailed) else error.strerror
            raise Retryable(
                f"cannot write down in {self.folder.root} what was accepted: {why}; free some space"
            ) from None


def _read(path: Path, kind: type[_T]) -> _T | None:
    """Texts by name; what a newer version wrote next to them is ignored. None where it cannot be understood."""
    try:
        found = known_part(kind, json.loads(path.read_bytes()))
        return kind(**{name: str(text) for name, text in found.items()})
    except (OSError, ValueError, TypeError):
        return None


def _write(path: Path, noted: Accepted | RejectedRevision | VerifiedRevision) -> None:
    """What `_read` reads. Raises OSError."""
    write_file(path, json.dumps(asdict(noted), sort_keys=True).encode() + b"\n", 0o600)


def _size(path: Path) -> int:
    """Of what may be gone by now, nothing."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
