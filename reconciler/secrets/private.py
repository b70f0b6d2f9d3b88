"""Files that only their owner may read: checked before they are."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from reconciler.errors import Terminal
from reconciler.system.os_errors import cannot

MAX_BYTES = 1 << 20


def read_private(path: Path) -> bytes:
    """The bytes of a file of this user's or root's that is closed to everyone else. Raises Terminal, with the fix."""
    try:
        # A pipe would keep us waiting for ever.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise Terminal(cannot(error, path, "read")) from None
    try:
        info = os.fstat(handle)
        if not stat.S_ISREG(info.st_mode):
            raise Terminal(f"{path}: is not a regular file")
        if problem := _openness(path, info, 0o077, "600"):
            raise Terminal(problem)
        # A folder would be refused by this with an error of its own, and stay open.
        with os.fdopen(handle, "rb", closefd=False) as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise Terminal(cannot(error, path, "read")) from None
    finally:
        os.close(handle)
    if len(data) > MAX_BYTES:
        raise Terminal(f"{path}: is larger than {MAX_BYTES >> 10} KiB")
    return data


def check_folder(folder: Path) -> None:
    """Raises Terminal unless it is a folder in which only its owner, we or root, can put files."""
    try:
        info = folder.stat()
    except OSError as error:
        text = f"{folder}: cannot be read: {error.strerror}; create it, or correct targets[].secrets.directory"
        raise Terminal(text) from None
    if not stat.S_ISDIR(info.st_mode):
        raise Terminal(f"{folder}: is not a folder")
    if problem := _openness(folder, info, 0o022, "700"):
        raise Terminal(problem)


def _openness(path: Path, info: os.stat_result, forbidden: int, wanted: str) -> str:
    if info.st_uid not in (0, os.geteuid()):
        return f"{path}: belongs to user {info.st_uid}; run: chown {os.geteuid()} {path}"
    if info.st_mode & forbidden:
        mode = stat.S_IMODE(info.st_mode)
        return f"{path}: is open to other users (mode {mode:o}); run: chmod {wanted} {path}"
    return ""
