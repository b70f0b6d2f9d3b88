"""Whether a folder can be written to, and has room: what a start needs before anything is stopped for it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from reconciler.model import Reason, ReasonCode, host_reason

# For a record, a log, and the engine's first files. Whatever is nearer to the end of a disk is full within minutes.
LEAST_BYTES = 1 << 20
_SHARED = "/dev/shm"  # noqa: S108


def unwritable(folders: Iterable[str]) -> Iterator[Reason]:
    """Folders, there or to be made, that we cannot write to, or that are full. One reason for each place or disk."""
    full: set[int] = set()
    for place in dict.fromkeys(_existing(folder) for folder in folders):
        try:
            found = os.statvfs(place)
            is_open, disk = os.access(place, os.W_OK | os.X_OK), os.stat(place).st_dev
        except OSError as error:
            yield host_reason(
                ReasonCode.FOLDER_NOT_WRITABLE,
                f"{place}: cannot be looked at: {error.strerror}; see to its disk",
            )
            continue
        if not is_open:
            why = "its disk is mounted read-only" if found.f_flag & os.ST_RDONLY else "it is closed to us"
            yield host_reason(ReasonCode.FOLDER_NOT_WRITABLE, f"{place}: cannot be written to: {why}")
        elif disk not in full and (
            found.f_bavail * found.f_frsize < LEAST_BYTES or (found.f_files and not found.f_favail)
        ):
            full.add(disk)
            yield host_reason(
                ReasonCode.DISK_FULL,
                f"{place}: its disk is full; nothing is stopped or started until there is room",
            )


def shared_memory_shortage(least: int, what: str) -> Reason | None:
    """Why so many bytes of shared memory are not free now; those of replicas count as free, for they may go first."""
    try:
        found = os.statvfs(_SHARED)
        free = found.f_bavail * found.f_frsize + sum(_of_replicas())
    except OSError:
        return None
    # A tmpfs without a size has no limit of its own.
    if not found.f_blocks or free >= least:
        return None
    text = (
        f"{_SHARED} has {free >> 20} MiB free, and {what} take {max(1, least >> 20)} MiB; make room there or enlarge it"
    )
    return host_reason(ReasonCode.SHARED_MEMORY_FULL, text)


def _of_replicas() -> Iterator[int]:
    with os.scandir(_SHARED) as entries:
        for each in entries:
            if each.name.startswith("psm_") and each.is_file(follow_symlinks=False):
                yield each.stat(follow_symlinks=False).st_blocks * 512


def _existing(folder: str) -> str:
    """The folder, or the nearest one around it that is there."""
    path = Path(folder)
    return str(next((each for each in (path, *path.parents) if each.is_dir()), path))
