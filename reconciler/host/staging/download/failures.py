"""Why a model could not be fetched: the source said no, it could not be asked, or the disk has no room."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reconciler.model import ReasonCode

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
# The client has to change something, except for these: too slow, too early, too many.
_PASSING = frozenset({408, 425, 429})


class DownloadFailed(Exception):
    """It may be tried again soon."""

    refused = False

    def __init__(self, code: ReasonCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class DownloadRefused(DownloadFailed):
    """The source refused: retrying soon is of no use."""

    refused = True


MOST_FILES = 50_000
"""No model has more: each takes memory before anything is fetched, and room on the disk without a byte in it."""


def too_many_files(what: str) -> DownloadFailed:
    return DownloadRefused(
        ReasonCode.TOO_MANY_FILES, f"{what}: holds more than {MOST_FILES:,} files; a model has fewer"
    )


def disk_full(what: str) -> DownloadFailed:
    return DownloadFailed(ReasonCode.DISK_FULL, f"{what}; the partial download is kept and resumes once there is space")


def failure_of_status(status: int, what: str) -> DownloadFailed:
    """What an HTTP status means."""
    if status in (401, 403):
        return DownloadRefused(ReasonCode.ACCESS_DENIED, f"{what}: access denied ({status}); check the credentials")
    if status in (404, 410):
        return DownloadRefused(ReasonCode.MODEL_NOT_FOUND, f"{what}: not found ({status})")
    if 400 <= status < 500 and status not in _PASSING:
        return DownloadRefused(ReasonCode.SOURCE_REFUSED, f"{what}: the source refused ({status})")
    return DownloadFailed(ReasonCode.SOURCE_FAILED, f"{what}: the source failed ({status})")


@contextmanager
def explained_disk(what: str) -> Iterator[None]:
    """Errors of the disk as what they are. Raises DownloadFailed."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise disk_full(f"{what}: the disk is full") from None
        raise


_LARGEST_RESERVE = 256 << 20


def free_bytes(folder: Path) -> int:
    """May be negative. Raises OSError."""
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize - min(_LARGEST_RESERVE, disk.f_blocks * disk.f_frsize // 100)
