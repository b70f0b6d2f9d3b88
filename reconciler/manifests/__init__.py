"""YAML files of a revision → manifests that know their file and line. A bad document spoils only itself.

What could not be read stays known (`Manifests.unreadable`): a service that came from there is kept as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from reconciler.formats.strict_yaml import FieldPath
from reconciler.manifests.assembly import Builds, assemble
from reconciler.manifests.documents import read_file
from reconciler.manifests.foreign import is_of_kserve, may_hide_services
from reconciler.manifests.manifest import (
    CLUSTER_SCOPED,
    KNOWN_KINDS,
    OUR_API,
    SETTINGS,
    Manifest,
    Manifests,
    Templated,
    Unreadable,
    cordon_of,
    drain_of,
    joined,
    unreadable,
)
from reconciler.manifests.overlays import find_supporting
from reconciler.manifests.paths import read_paths
from reconciler.manifests.selection import (
    IGNORE_FILE,
    MAX_IGNORE_BYTES,
    SUFFIXES,
    Ignore,
    folder_of,
    ignore_files,
    is_hidden,
    is_kustomization,
    is_manifest,
    is_near_manifest,
    misnamed,
    narrow,
)
from reconciler.model import Bug, File, Origin, Reason, ReasonCode, Snapshot

__all__ = [
    "CLUSTER_SCOPED",
    "IGNORE_FILE",
    "KNOWN_KINDS",
    "MAX_IGNORE_BYTES",
    "OUR_API",
    "SETTINGS",
    "SUFFIXES",
    "FieldPath",
    "Ignore",
    "Manifest",
    "ManifestCache",
    "Manifests",
    "Templated",
    "Unreadable",
    "cordon_of",
    "drain_of",
    "duplicate_of",
    "find_duplicates",
    "find_supporting",
    "folder_of",
    "ignore_files",
    "is_hidden",
    "is_kustomization",
    "is_manifest",
    "is_near_manifest",
    "is_of_kserve",
    "may_hide_services",
    "misnamed",
    "narrow",
    "read_manifests",
    "read_paths",
]


# What is hidden or ignored is passed over on purpose.
_SILENT = (ReasonCode.HIDDEN, ReasonCode.FILE_IGNORED)
# Of all files together: values that aliases make beyond what is written.
MAX_EXPANDED = 300_000
MOST_NAMED = 3


class ManifestCache:
    """Parsed files, by path and object id: an unchanged file is not parsed again. One for each target.

    `every_kind`: also objects of kinds that mean nothing to us are kept.
    """

    def __init__(self, *, every_kind: bool = False) -> None:
        self._every_kind = every_kind
        self._files: dict[tuple[str, str], Manifests] = {}
        self._builds = Builds()
        # Of documents that could not be read since they were last taken: for the log.
        self.bugs: list[Bug] = []

    def unread(self, snapshot: Snapshot) -> set[tuple[str, str]]:
        """Path and object id of files that were not read, and are not known."""
        return {(file.path, file.oid) for file in snapshot.files} - self._files.keys()

    def read(self, snapshot: Snapshot, roots: Iterable[str] = ("",)) -> list[Manifests]:
        """The manifests of each file below the roots; drops the files that are not among these."""
        known, now = self._files, dict[tuple[str, str], Manifests]()
        expanded = 0

        def read_one(file: File) -> Manifests:
            nonlocal expanded
            if expanded > MAX_EXPANDED:
                return _too_much(file.path)
            key = (file.path, file.oid)
            # The size limit of files in git is the source's; what it hands over is read.
            if key in known:
                now[key] = known[key]
            elif key not in now:
                found = read_file(file.path, file.data, len(file.data))
                now[key] = found if self._every_kind or not found.others else replace(found, others=())
                self.bugs += now[key].bugs
            expanded += now[key].expanded
            return now[key]

        parts = assemble(snapshot.files, snapshot.supporting, roots, read_one, self._builds, snapshot.refused)
        found = [part for _, part in parts]
        self._files = now
        return found


def _too_much(path: str) -> Manifests:
    text = "not read: the aliases in the files before it expand to too many values; write the values out there"
    return unreadable(path, 1, ReasonCode.TOO_MANY_VALUES, text)


def read_manifests(snapshot: Snapshot, cache: ManifestCache | None = None, roots: Iterable[str] = ("",)) -> Manifests:
    """All documents of a revision below the roots. What cannot be read becomes `unreadable`.

    Raises OSError where this machine, and not the input, is to blame.
    """
    refused = Manifests(unreadable=tuple(Unreadable(reason) for reason in snapshot.refused))
    noted = Manifests(notes=tuple(each for each in snapshot.skipped.values() if each.code not in _SILENT))
    return joined([refused, noted, *(cache or ManifestCache()).read(snapshot, roots)])


def find_duplicates(documents: Iterable[Manifest], default_namespace: str) -> list[tuple[Manifest, ...]]:
    """Manifests that claim the same kind, namespace and name, in groups of two or more.

    Kinds of two API groups may have one name: Knative has a Service too.
    """
    groups: dict[tuple[str, str, str, str], list[Manifest]] = {}
    for each in documents:
        namespace = "" if each.kind in CLUSTER_SCOPED else each.namespace or default_namespace
        group = each.api_version.rpartition("/")[0]
        groups.setdefault((group, each.kind, namespace, each.name), []).append(each)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def duplicate_of(manifest: Manifest, group: Sequence[Manifest]) -> Reason:
    """Which others of the group a manifest has the same name as."""
    others = [each.origin for each in group[: MOST_NAMED + 1] if each is not manifest]
    return written_twice(f"{manifest.kind} {manifest.name}", manifest.origin, others, len(group) - 1)


def written_twice(what: str, origin: Origin, others: Sequence[Origin], count: int) -> Reason:
    """Something stands in `count` more places, of which there may be one. `MOST_NAMED` of the others are named."""
    named = [str(each) for each in others[:MOST_NAMED]]
    more = [f"{count - len(named)} more places"] if count > len(named) else []
    text = f"{what} is also written at {' and '.join([*named, *more])}; keep one"
    return Reason(ReasonCode.DUPLICATE_OBJECT, text, origin)
