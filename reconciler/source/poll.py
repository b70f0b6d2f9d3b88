"""The source: poll the configured reference, fetch what changed, accept it or report why not."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from reconciler.config.settings import SourceSettings
from reconciler.config.values import is_ref_name
from reconciler.errors import NotUnderstood, ReconcileError, Retryable, RevisionRefused, Superseded, Terminal
from reconciler.formats.git_address import Address, parse_address
from reconciler.model import Signer, Snapshot
from reconciler.source.access import Folder, remote_environment
from reconciler.source.git import Ending, GitFailed, GitTimedOut, run_git
from reconciler.source.git_errors import clean, explain
from reconciler.source.mirror import Accepted, Damaged, Mirror, RejectedRevision
from reconciler.source.reference import (
    ConfiguredReference,
    Kind,
    ResolvedReference,
    choose,
    configured_reference,
    nothing_found,
)
from reconciler.source.signatures import Signatures
from reconciler.source.trailers import read_approvals
from reconciler.source.tree import ReadPaths, read_snapshot

_WANTED = "refs/reconciler/wanted"
_EVERYTHING = ("+refs/heads/*:refs/reconciler/heads/*", "+refs/tags/*:refs/reconciler/tags/*")
_MOST_REFERENCES = 50_000
_HEX = re.compile(r"[0-9a-fA-F]{4,40}")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Check:
    """What a revision must pass to be accepted; `reader` changes with its rules.

    `look` finds out whether a newer revision exists. Raises NotUnderstood, and Superseded then.
    """

    look: Callable[[Snapshot, Callable[[], bool]], object]
    reader: str


class GitSource:
    """One repository, mirrored in a private folder. Safe to call from several threads and to kill at any time."""

    def __init__(
        self,
        settings: SourceSettings,
        mirror: Path,
        paths: tuple[str, ...],
        check: Check | None = None,
        *,
        readers: tuple[tuple[str, ...], ...] = (),
    ) -> None:
        """`paths` are the folders that any target reads; `""` or `"."` is the whole tree. Touches nothing yet.

        `readers` are the folders of each target; without them one target reads all.
        """
        self._settings = settings
        self._read_paths = ReadPaths(tuple(dict.fromkeys(paths)), readers)
        self._check = check
        self._ending = Ending()
        self._mirror = Mirror(Folder(mirror.absolute()), settings.timeout, self._ending)
        self._signatures = Signatures(self._mirror, settings)
        self._lock = threading.RLock()
        self._current: Snapshot | None = None
        self._rebuilt_for = ""

    def last_good(self) -> Snapshot | None:
        """The revision accepted last, read from the mirror alone.

        None when there is none, it cannot be read, or it is not signed by whom the config trusts now.
        """
        with self._lock:
            accepted = self._mirror.accepted()
            if self._current is None and accepted is not None:
                try:
                    signer = self._signer_of(accepted)
                    self._current = _signed(self._read(accepted), signer)
                except (ReconcileError, Damaged):
                    return None
            return self._current

    def _signer_of(self, accepted: Accepted) -> Signer | None:
        if not self._signatures.is_on:
            return None
        with self._mirror.exclusive(parse_address(self._settings.url).path):
            return self._signatures.check(accepted, accepted, self._tag())

    def retry(self) -> None:
        """With the next poll, read a revision again that was not accepted."""
        with self._lock:
            self._mirror.forget_refused()
            self._signatures.forget()

    def poll(self) -> Snapshot:
        """The desired revision; the same object as long as it stays the same.

        Raises Retryable (network, timeout, login) or Terminal (bad url or reference, rewritten history, limits, no
        signature that is trusted); what was accepted before stays the last good one. Unverified about the revision
        that was accepted: its signature counts no more.
        """
        address, wanted = parse_address(self._settings.url), configured_reference(self._settings)
        while True:
            with self._lock, self._mirror.exclusive(address.path), suppress(Superseded):
                chosen = self._choose(address, wanted)
                return self._repairing(address, chosen.commit, partial(self._take, address, wanted, chosen))

    def look(self) -> str:
        """The configured reference and its commit on the remote, as text. Fetches nothing.

        Raises as `poll` does. A configured commit is not looked up: only a fetch shows whether a remote has it.
        """
        address, wanted = parse_address(self._settings.url), configured_reference(self._settings)
        with self._lock, self._mirror.exclusive(address.path):
            if wanted.kind is Kind.COMMIT:
                self._ask(address, ("HEAD",))
                return f"answers; {wanted.text[:8]} is looked for when it is fetched"
            chosen = self._choose(address, wanted)
            return f"{chosen.ref} is {chosen.commit[:8]}"

    def snapshot(self, revision: str) -> Snapshot:
        """Another revision: a commit (4 to 40 digits), a branch or a tag. Accepts nothing. Raises as `poll` does."""
        address = parse_address(self._settings.url)
        with self._lock, self._mirror.exclusive(address.path):
            return self._repairing(address, revision, lambda: self._looked_at(self._other(address, revision)))

    def _looked_at(self, what: Accepted) -> Snapshot:
        return _signed(self._read(what), self._signatures.look(what.revision))

    def end(self) -> None:
        """Cancel every wait for the remote; it raises Stopping. No further request is made."""
        self._ending.begin()

    def close(self) -> None:
        """Release what was read. Every git call has ended by itself."""
        with self._lock:
            self._current = None

    # ------------------------------------------------------------ which revision

    def _choose(self, address: Address, wanted: ConfiguredReference) -> ResolvedReference:
        if wanted.kind is Kind.COMMIT:
            return ResolvedReference("", wanted.text, wanted.text)
        refs = self._ask(address, wanted.patterns)
        if (chosen := choose(wanted, refs)) is not None:
            return _known_format(chosen, address)
        raise nothing_found(wanted, self._ask(address, ("refs/heads/*", "refs/tags/*")), address.shown)

    def _ask(self, address: Address, patterns: tuple[str, ...]) -> dict[str, str]:
        """What the remote's references point to. Runs outside any repository, so that none can configure the call."""
        if address.path is not None and not os.path.exists(address.path):
            raise Retryable(f"{address.shown} is not there or cannot be read; create it, or correct source.url")
        nowhere = f"--git-dir={self._mirror.folder.home / 'none'}"
        out = self._remotely(address, "ask", nowhere, "ls-remote", "--quiet", "--", address.url, *patterns)
        lines = (line.partition("\t") for line in out.decode("utf-8", "replace").splitlines())
        return {name: oid for oid, _, name in lines}

    def _remotely(self, address: Address, what: str, *arguments: str) -> bytes:
        env = remote_environment(self._mirror.folder, self._settings, address)
        try:
            return run_git(*arguments, env=env, timeout=self._settings.timeout, watch=self._ending.check)
        except GitFailed as error:
            raise explain(error, address, what, _secrets(env)) from None

    # ------------------------------------------------------------ getting and accepting it

    def _take(self, address: Address, wanted: ConfiguredReference, chosen: ResolvedReference) -> Snapshot:
        before = self._mirror.accepted()
        is_same = before is not None and (before.revision, *before.name) == (chosen.commit, address.shown, chosen.ref)
        is_read = is_same and self._current_is(chosen.commit)
        if before is not None and is_read and self._signatures.is_settled(chosen.commit):
            return self._understood(before, lambda: self._has_moved(address, wanted, chosen.commit))
        now = _next(before, Accepted(self._obtain(address, wanted, chosen), address.shown, chosen.ref))
        if before is not None and self._is_rewrite(before, now, chosen):
            if not self._settings.allow_rewrites:
                raise _rewritten(before, now, chosen)
            now = replace(now, rewrite=now.revision)
        signer = self._signatures.check(now, before, self._tag())
        try:
            snapshot = self._understood(now, lambda: self._has_moved(address, wanted, now.revision))
        except RevisionRefused:
            raise
        except Terminal as error:
            raise RevisionRefused(now.revision, str(error)) from None
        if now != before:
            self._mirror.accept(now)
        self._current = _signed(snapshot, signer)
        return self._current

    def _has_moved(self, address: Address, wanted: ConfiguredReference, revision: str) -> bool:
        """Is another revision wanted by now? Not as long as the remote does not say so."""
        try:
            return self._choose(address, wanted).commit != revision
        except ReconcileError:
            return False

    def _understood(self, what: Accepted, is_outdated: Callable[[], bool]) -> Snapshot:
        """A revision that we know what to make of. One that was not understood is not looked at again and again."""
        if self._check is None:
            return self._read(what)
        known, revision = self._mirror.refused(), what.revision
        if known is not None and (known.revision, known.reader) == (revision, self._check.reader):
            raise RevisionRefused(revision, known.why)
        snapshot = self._read(what)
        try:
            self._check.look(snapshot, is_outdated)
        except NotUnderstood as error:
            refused = RejectedRevision(revision, f"{error}; the last good revision stays", self._check.reader)
            self._mirror.refuse(refused)
            raise RevisionRefused(revision, refused.why) from None
        return snapshot

    def _current_is(self, revision: str) -> bool:
        return self._current is not None and self._current.revision == revision

    def _read(self, what: Accepted) -> Snapshot:
        if self._current is not None and self._current.revision == what.revision:
            return self._current
        snapshot = read_snapshot(self._mirror, what.revision, self._read_paths, self._settings, self._current)
        approvals = read_approvals(self._mirror, what.since, what.revision)
        return replace(snapshot, approvals=approvals, rewrite=what.rewrite)

    def _obtain(self, address: Address, wanted: ConfiguredReference, chosen: ResolvedReference) -> str:
        """Fetch the chosen commit unless it is here. A branch may have moved on meanwhile: the newest is returned."""
        before = self._mirror.accepted()
        name = chosen.commit if before is not None and before.revision == chosen.commit else _WANTED
        if self._mirror.commit(name) == chosen.commit and self._has_tag(chosen):
            return chosen.commit
        if wanted.kind is Kind.COMMIT:
            return self._obtain_commit(address, chosen.commit)
        self._fetch(address, (f"+{chosen.ref}:{_WANTED}",))
        return self._commit_or_refuse(_WANTED, f"{chosen.ref} of {address.shown}")

    def _has_tag(self, chosen: ResolvedReference) -> bool:
        """A tag may have been made anew for the same commit, with a signature."""
        return self._tag() in (None, chosen.oid)

    def _tag(self) -> str | None:
        """The object that was fetched for the configured tag, if its signature counts."""
        return (self._mirror.object(_WANTED) or "") if self._signatures.needs_tag else None

    def _obtain_commit(self, address: Address, commit: str) -> str:
        if self._mirror.commit(commit) is None:
            self._fetch_everything(address)
        return self._commit_or_refuse(commit, f"{commit} of {address.shown}")

    def _commit_or_refuse(self, name: str, what: str) -> str:
        if (commit := self._mirror.commit(name)) is None:
            raise Terminal(f"{what} is not a commit of any branch or tag; push it, or use another one")
        return commit

    def _fetch_everything(self, address: Address) -> None:
        """Each reference becomes a file of the mirror."""
        refs = self._ask(address, ("refs/heads/*", "refs/tags/*"))
        if len(refs) > _MOST_REFERENCES:
            raise Terminal(
                f"{address.shown} has {len(refs):,} branches and tags, more than {_MOST_REFERENCES:,}: too many to "
                "look for one commit in; delete some, or name a branch or a tag"
            )
        self._fetch(address, _EVERYTHING)

    def _fetch(self, address: Address, refspecs: tuple[str, ...]) -> None:
        env = remote_environment(self._mirror.folder, self._settings, address)
        try:
            self._mirror.fetch(address.url, refspecs, env, self._settings.max_repository_bytes)
        except (Retryable, Terminal) as error:
            raise type(error)(f"cannot fetch from {address.shown}: {error}") from None
        except GitFailed as error:
            if not isinstance(error, GitTimedOut) and not self._mirror.is_sound():
                raise Damaged(error.output) from None
            raise explain(error, address, "fetch from", _secrets(env)) from None

    def _is_rewrite(self, before: Accepted, now: Accepted, chosen: ResolvedReference) -> bool:
        """Compare only what the same name meant before and means now: choosing another name is no rewrite."""
        if before.name != now.name or not now.ref or before.revision == now.revision:
            return False
        return chosen.is_tag or not self._mirror.is_ancestor(before.revision, now.revision)

    # ------------------------------------------------------------ a mirror that broke

    def _repairing(self, address: Address, commit: str, work: Callable[[], _T]) -> _T:
        """Do the work; when the mirror turns out to be damaged, rebuild it once for this commit and do it again."""
        try:
            done = work()
        except Damaged as error:
            if self._rebuilt_for == commit:
                raise self._unreadable(address, commit, error) from None
        else:
            self._rebuilt_for = ""
            return done
        self._rebuilt_for = commit
        self._mirror.rebuild()
        try:
            return work()
        except Damaged as error:
            raise self._unreadable(address, commit, error) from None

    def _unreadable(self, address: Address, commit: str, error: Damaged) -> Terminal:
        output = clean(str(error), address)
        return Terminal(
            f"cannot read {commit[:12]} of {address.shown}: {output}; a new mirror did not help: "
            "push a history that git can read"
        )

    # ------------------------------------------------------------ any other revision

    def _other(self, address: Address, text: str) -> Accepted:
        """As if it followed the one that is accepted."""
        found, known = self._find(address, text), self._mirror.accepted()
        return _next(known, Accepted(found, *known.name)) if known else Accepted(found, "", "")

    def _find(self, address: Address, text: str) -> str:
        if _HEX.fullmatch(text) and (commit := self._mirror.commit(text.lower())) is not None:
            return commit
        if not is_ref_name(text):
            raise Terminal(f"{text[:80]!a} is not a revision; give a branch, a tag, or 4 to 40 digits of a commit")
        self._fetch_everything(address)
        names = [f"refs/reconciler/heads/{text}", f"refs/reconciler/tags/{text}"]
        if _HEX.fullmatch(text):
            names.append(text.lower())
        found = next((commit for name in names if (commit := self._mirror.commit(name)) is not None), None)
        if found is None:
            raise Terminal(f"{address.shown} has no branch, tag or commit {text}, or its digits fit several; check it")
        return found


def _next(before: Accepted | None, now: Accepted) -> Accepted:
    """With what is known of its history. The same revision, found again, follows the one that it followed before."""
    if before is None:
        return now
    since = before.since if before.revision == now.revision else before.revision
    return replace(now, since=since, rewrite=before.rewrite)


def _signed(snapshot: Snapshot, signer: Signer | None) -> Snapshot:
    return snapshot if snapshot.signer == signer else replace(snapshot, signer=signer)


def _rewritten(before: Accepted, now: Accepted, chosen: ResolvedReference) -> RevisionRefused:
    happened = "is a tag that was moved" if chosen.is_tag else "was rewritten"
    return RevisionRefused(
        now.revision,
        f"{now.ref} of {now.url} {happened}: {before.revision} was accepted, {now.revision} does not follow from "
        "it; the last good revision stays. Restore it, or set source.allow_rewrites: true to accept what is there",
    )


def _known_format(chosen: ResolvedReference, address: Address) -> ResolvedReference:
    if not re.fullmatch(r"[0-9a-f]{40}", chosen.commit):
        raise Terminal(f"{address.shown} names its objects by SHA-256, which is not supported; use a SHA-1 repository")
    return chosen


def _secrets(env: dict[str, str]) -> tuple[str, ...]:
    return tuple(env[name] for name in ("RECONCILER_GIT_TOKEN",) if name in env)
