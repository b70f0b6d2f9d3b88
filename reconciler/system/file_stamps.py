"""What changes when a file or a folder does."""

from __future__ import annotations

import os
from pathlib import Path

Stamp = tuple[int, int, int, int, int] | None


class Stamps:
    """Stats each path once; make a new one for every pass."""

    def __init__(self) -> None:
        self._seen: dict[str, Stamp] = {}

    def of(self, path: str) -> Stamp:
        """None where nothing is, or nothing that we may see."""
        if path not in self._seen:
            self._seen[path] = stamp_of(path)
        return self._seen[path]


def stamp_of(path: str | Path) -> Stamp:
    """None where nothing is, or nothing that we may see."""
    try:
        return stamp_from(os.stat(path))
    except OSError:
        return None


def stamp_from(info: os.stat_result) -> tuple[int, int, int, int, int]:
    """Equal stamps, equal content, as far as the kernel tells."""
    return info.st_dev, info.st_ino, info.st_mtime_ns, info.st_ctime_ns, info.st_size
