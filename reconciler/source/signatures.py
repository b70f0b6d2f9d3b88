"""Is a revision signed by someone who is trusted? git and its programs decide; here is only what they are asked.

It is asked after a fetch and before anything of the revision is read.
"""

from __future__ import annotations

import re

from reconciler.config.settings import SourceSettings
from reconciler.errors import ReconcileError, Retryable, Unverified
from reconciler.model import Signer
from reconciler.source.mirror import Accepted, Damaged, Endless, Mirror, VerifiedRevision
from reconciler.source.signature_verdicts import SignatureFault, fault_of, signers_of
from reconciler.source.trusted_keys import TrustedKeys, trusted_keys

MOST_COMMITS = 10_000
# Verified by one call, which must end within source.timeout: some ten milliseconds each.
_AT_ONCE = 50
_LONGEST_OBJECT = 1 << 20
_SIGN = {
    "head": "push a signed commit on top of it",
    "tag": "sign the tag (git tag --sign --force NAME COMMIT) and push it with --force",
    "every": "sign it (git rebase --exec 'git commit --amend --no-edit -S' COMMIT^) and push again",
}
_BEGIN = re.compile(rb"-----BEGIN (PGP SIGNATURE|PGP MESSAGE|SSH SIGNATURE|SIGNED MESSAGE)-----")
_HEADER = re.compile(rb"^gpgsig(?:-sha256)? ", re.MULTILINE)


class Signatures:
    """Verifies revisions of one mirror. The caller holds the mirror's lock."""

    def __init__(self, mirror: Mirror, settings: SourceSettings) -> None:
        self._mirror = mirror
        self._verify = settings.verify
        self._refused: tuple[tuple[str, ...], str] | None = None

    @property
    def is_on(self) -> bool:
        return self._verify.mode != "none"

    @property
    def needs_tag(self) -> bool:
        return self._verify.mode == "tag"

    def forget(self) -> None:
        """Verify again what was refused."""
        self._refused = None

    def is_settled(self, revision: str) -> bool:
        """Was it found to be signed, by the rules and keys of now? Raises as `check` does where keys are unusable."""
        return not self.is_on or self._known(revision, self._keys()) is not None

    def check(self, now: Accepted, before: Accepted | None, tag: str | None) -> Signer | None:
        """Who signed it. `before` was accepted last; `tag` is the object that the configured tag stands for.

        Raises Unverified; Retryable where a file or a program does not answer, Terminal where one is unusable.
        """
        if not self.is_on:
            return None
        keys = self._keys()
        if (known := self._known(now.revision, keys)) is not None:
            return known
        since = before.revision if before is not None and before.url == now.url else ""
        case = (self._rules(keys), now.revision, since, tag or "")
        if self._refused is not None and self._refused[0] == case:
            raise Unverified(now.revision, self._refused[1])
        try:
            signer = self._verified(keys, now, since, tag)
        except Unverified as error:
            self._refused = (case, str(error))
            raise
        found = VerifiedRevision(now.revision, self._rules(keys), signer.name, signer.fingerprint)
        self._mirror.note_verified(found)
        return signer

    def look(self, revision: str) -> Signer | None:
        """Who signed a commit that is only looked at; None: nobody who is trusted."""
        if not self.is_on:
            return None
        try:
            return self._signer(self._keys(), "commit", revision, revision)
        except ReconcileError:
            return None

    # ------------------------------------------------------------ what counts

    def _keys(self) -> TrustedKeys:
        return trusted_keys(self._mirror.folder, self._verify)

    def _rules(self, keys: TrustedKeys) -> str:
        return f"{self._verify.mode} {keys.id}"

    def _known(self, revision: str, keys: TrustedKeys) -> Signer | None:
        found = self._mirror.verified()
        if found is None or (found.revision, found.rules) != (revision, self._rules(keys)):
            return None
        return Signer(found.name, found.fingerprint)

    def _verified(self, keys: TrustedKeys, now: Accepted, since: str, tag: str | None) -> Signer:
        if self.needs_tag:
            return self._signer(keys, "tag", self._tag(now, tag), now.revision)
        signer = self._signer(keys, "commit", now.revision, now.revision)
        if self._verify.mode == "every" and since and since != now.revision:
            self._check_between(keys, since, now.revision)
        return signer

    def _tag(self, now: Accepted, tag: str | None) -> str:
        """The tag object, which must stand for exactly this name and commit: a signed one may be put elsewhere."""
        name = now.ref.removeprefix("refs/tags/")
        header = self._object("tag", tag)[:1000] if tag and tag != now.revision else b""
        if not header:
            fault = SignatureFault("is lightweight, and only annotated tags are signed")
            raise self._refusal(now.revision, f"the tag {name}", fault)
        expected = f"object {now.revision}\ntype commit\ntag {name}\n"
        if not header.startswith(expected.encode()):
            fault = SignatureFault(f"was not made as {name} of {now.revision[:12]}", "make and sign a tag of this name")
            raise self._refusal(now.revision, f"the tag object {tag} of {name}", fault)
        assert tag is not None  # noqa: S101
        return tag

    def _check_between(self, keys: TrustedKeys, since: str, revision: str) -> None:
        """Every commit that came with it, of all parents."""
        if self._mirror.commit(since) is None:
            fix = "check what was pushed, then accept it once with source.verify.mode: head"
            raise self._refusal(revision, since, SignatureFault("is gone, so what came after it is unknown", fix))
        most = f"--max-count={MOST_COMMITS + 1}"
        commits = self._mirror.read("rev-list", most, f"{since}..{revision}", "--").decode().split()
        if len(commits) > MOST_COMMITS:
            fix = "push fewer at once, or accept them once with source.verify.mode: head"
            raise self._refusal(revision, revision, SignatureFault(f"brings more than {MOST_COMMITS:,} commits", fix))
        # The oldest that is bad is where to begin.
        commits.reverse()
        for begin in range(0, len(commits), _AT_ONCE):
            if (bad := self._first_bad(keys, commits[begin : begin + _AT_ONCE])) is not None:
                self._signer(keys, "commit", bad, revision)
                raise Retryable(f"git took the signature of {bad} for bad, then for good; trying again later")

    def _first_bad(self, keys: TrustedKeys, commits: list[str]) -> str | None:
        """git tells only whether all are good: halve until one is left."""
        if self._ask(keys, "commit", commits)[0]:
            return None
        if len(commits) == 1:
            return commits[0]
        middle = len(commits) // 2
        return self._first_bad(keys, commits[:middle]) or self._first_bad(keys, commits[middle:])

    # ------------------------------------------------------------ one commit or tag

    def _signer(self, keys: TrustedKeys, kind: str, oid: str, revision: str) -> Signer:
        """Raises Unverified, about the revision that it is a part of."""
        signers, said = self._ask(keys, kind, [oid])
        if not signers:
            fault = fault_of(said, self._signature(kind, oid), self._verify)
            raise self._refusal(revision, oid if kind == "commit" else f"the tag object {oid}", fault)
        return signers[0]

    def _ask(self, keys: TrustedKeys, kind: str, oids: list[str]) -> tuple[list[Signer], str]:
        """Who signed each of them, none unless all are good; and what was said."""
        is_good, said = self._mirror.ask_about_signatures(keys, f"verify-{kind}", "--raw", "--", *oids)
        signers = signers_of(said) if is_good else []
        return (signers if len(signers) == len(oids) else []), said

    def _refusal(self, revision: str, what: str, fault: SignatureFault) -> Unverified:
        accepted = self._mirror.accepted()
        if accepted is not None and accepted.revision == revision:
            stays = "what runs stays as it is, and nothing new is started from this revision"
        else:
            stays = "the last good revision stays"
        subject = f"{revision[:12]} is not verified: " + ("it" if what == revision else what)
        return Unverified(revision, f"{subject} {fault.what}; {stays}; {fault.fix or _SIGN[self._verify.mode]}")

    def _signature(self, kind: str, oid: str) -> str:
        """What it is signed with, as it says itself; empty: it is not signed."""
        data = self._object(kind, oid)
        if kind == "commit":
            head = data.partition(b"\n\n")[0]
            if (header := _HEADER.search(head)) is None:
                return ""
            data = head[header.end() :]
        found = _BEGIN.search(data)
        return found[1].decode() if found else "?" if kind == "commit" else ""

    def _object(self, kind: str, oid: str | None) -> bytes:
        try:
            return self._mirror.read("cat-file", kind, oid or "", most=_LONGEST_OBJECT)
        except Endless:
            return b"gpgsig ?\n\n"
        except Damaged:
            if oid and self._mirror.object(f"{oid}^{{{kind}}}") is None:
                return b""
            raise
