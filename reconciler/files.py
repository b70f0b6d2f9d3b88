"""Files that are either as they were or as they should be, never in between."""

from __future__ import annotations

import os
from pathlib import Path


def write_atomically(path: Path, data: bytes, mode: int = 0o600) -> bool:
    """Put `data` in place as a whole; says whether anything was written. Raises OSError.

    Content that is there already is not written again. Callers must not write one path from two threads at once.
    """
    if _holds(path, data):
        return False
    replace_file(path, data, mode)
    return True


def replace_file(path: Path, data: bytes, mode: int = 0o600) -> None:
    """The same, also where the content is there already: whoever watches the file is told. Raises OSError.

    The name of the partial file is fixed, so that a daemon that was killed leaves at most one, which the next write
    replaces: whatever stands there, and whoever put it there, is not written to.
    """
    partial = path.with_name(f".{path.name}.new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        descriptor = os.open(partial, flags, mode)
    except FileExistsError:
        partial.unlink()
        descriptor = os.open(partial, flags, mode)
    with open(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)
    os.replace(partial, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make names that were added to or taken from a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _holds(path: Path, data: bytes) -> bool:
    try:
        return path.stat().st_size == len(data) and path.read_bytes() == data
    except FileNotFoundError:
        return False
