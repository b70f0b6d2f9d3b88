"""How much of a disk models may take: records and logs must still find room when it fills."""

from __future__ import annotations

import os
from pathlib import Path

_LARGEST_RESERVE = 256 << 20


def free_bytes(folder: Path) -> int:
    """May be negative. Raises OSError."""
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize - min(_LARGEST_RESERVE, disk.f_blocks * disk.f_frsize // 100)
