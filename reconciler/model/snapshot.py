"""What the source hands to the manifests."""

from __future__ import annotations

from dataclasses import dataclass, field

from reconciler.model.names import Reason


@dataclass(frozen=True, slots=True)
class File:
    """One file of a revision. `oid` is git's object id: equal ids are equal bytes."""

    path: str
    oid: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One revision of the source, read as an immutable set of files.

    `files` holds the YAML files under the paths that were asked for; `refused` those that may not be read (symlinks,
    too large, not a regular file) with the reason; `missing` those asked-for paths that the revision does not have.
    """

    revision: str
    files: tuple[File, ...]
    refused: tuple[Reason, ...] = ()
    missing: tuple[str, ...] = ()
    subject: str = ""
    committed_at: float = 0.0
