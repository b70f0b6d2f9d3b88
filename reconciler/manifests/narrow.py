"""What of a revision concerns one target: another one may read other folders of the same repository."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from reconciler.manifests.selection import IGNORE_FILE, is_hidden
from reconciler.model import File, Reason, ReasonCode, Snapshot, is_under


def narrow(snapshot: Snapshot, paths: Sequence[str]) -> Snapshot:
    """The snapshot as one that reads these paths has it.

    A file that only another target reads is no manifest here, but a kustomization may still use it.
    """
    own, others = list[File](), list[File]()
    for each in snapshot.files:
        (others if is_hidden(each.path, paths) else own).append(each)
    return replace(
        snapshot,
        files=tuple(own),
        supporting=(*snapshot.supporting, *others),
        refused=tuple(each for each in snapshot.refused if _touches(each, paths)),
        missing=tuple(path for path in snapshot.missing if path in paths),
        skipped={path: why for path, why in snapshot.skipped.items() if is_under(path, paths)},
    )


def _touches(reason: Reason, paths: Sequence[str]) -> bool:
    """Also what exists instead of one of the target's parent folders, or blocks access to it."""
    if not reason.origin:
        return True
    if reason.code is ReasonCode.FOLDER_TOO_LARGE:
        return reason.origin.file in paths
    refused = reason.origin.file.removesuffix(f"/{IGNORE_FILE}")
    return is_under(refused, paths) or any(path.startswith(f"{refused}/") for path in paths)
