"""What the source passes to the manifests stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from reconciler.model.names import Reason


@dataclass(frozen=True, slots=True)
class File:
    """One file of a revision. `oid` is git's object id: equal ids are equal bytes."""

    path: str
    oid: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class CommitApproval:
    """A commit's trailer `Reconciler-Approve: HASH`. `author` is as the commit says, which nobody checked."""

    hash: str
    commit: str
    author: str


@dataclass(frozen=True, slots=True)
class Signer:
    """Whose signature vouches for a revision: the name that the trusted key has, and the key's fingerprint."""

    name: str
    fingerprint: str

    def __str__(self) -> str:
        return f"{self.name} ({self.fingerprint})"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One revision of the source, read as an immutable set of files.

    `files` holds the YAML and JSON files under the paths that were asked for; `refused` those that may not be read
    (symlinks, too large, not a regular file) with the reason; `missing` those asked-for paths that the revision does
    not have. `supporting` are files outside these that kustomizations among them name: bases, patches, data; they are
    no manifests by themselves. `skipped` are files that are passed over, and why: hidden, ignored, named otherwise, or
    too large and clearly unrelated. `approvals` stand in the commits since the revision that was accepted before.
    `rewrite` is the first revision that was accepted after the latest rewrite of history; empty: there was none.
    `signer` is None where signatures are not verified.
    """

    revision: str
    files: tuple[File, ...]
    refused: tuple[Reason, ...] = ()
    missing: tuple[str, ...] = ()
    subject: str = ""
    committed_at: float = 0.0
    skipped: Mapping[str, Reason] = field(default_factory=lambda: MappingProxyType({}))
    supporting: tuple[File, ...] = ()
    approvals: tuple[CommitApproval, ...] = ()
    rewrite: str = ""
    signer: Signer | None = None
