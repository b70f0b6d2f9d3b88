"""Files that are either as they were or as they should be, never in between; and files of names that others chose."""

from __future__ import annotations

import errno
import io
import os
import stat
from pathlib import Path
from typing import BinaryIO

_NOTHING_THERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP})


def means_nothing_is_there(error: OSError) -> bool:
    """Can a file of this name not be there? All other errors hide it: what is hidden is not missing."""
    return error.errno in _NOTHING_THERE


def write_atomically(path: Path, data: bytes, mode: int = 0o600, group: int = -1) -> bool:
    """Write `data` atomically; returns whether anything was written. Raises OSError.

    Unchanged content is not written again. Callers must not write one path from two threads at once.
    """
    if _holds(path, data):
        return False
    replace_file(path, data, mode, group)
    return True


def replace_file(path: Path, data: bytes, mode: int = 0o600, group: int = -1) -> None:
    """The same, also if the content is unchanged: watchers of the file are notified. Raises OSError.

    The name of the partial file is fixed, so that a daemon that was killed leaves at most one, which the next write
    replaces: an existing file, or what a link points to, is not written to.
    """
    partial = path.with_name(f".{path.name}.new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        descriptor = os.open(partial, flags, mode)
    except FileExistsError:
        partial.unlink()
        descriptor = os.open(partial, flags, mode)
    with open(descriptor, "wb") as file:
        if group not in (-1, os.fstat(descriptor).st_gid):
            os.fchown(descriptor, -1, group)
        os.fchmod(descriptor, mode)
        file.write(data)
        file.flush()
        os.fsync(descriptor)
    os.replace(partial, path)
    sync_folder(path.parent)


def open_regular(path: str | Path) -> BinaryIO:
    """A file of a name that another user chose, to be read. Raises OSError for all that is not a regular file.

    Nothing else is opened, not even for a moment: a pipe makes its reader wait for ever, and some devices act on it.
    Files of the kernel have no size, and reading one may wait as well: they count as the empty files that they say.
    """
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        info = os.fstat(place)
        if not stat.S_ISREG(info.st_mode):
            raise OSError(errno.EINVAL, "is not a regular file")
        return open(f"/proc/self/fd/{place}", "rb") if info.st_size else io.BytesIO()
    finally:
        os.close(place)


def make_folder(folder: Path, mode: int = 0o700) -> None:
    """Make a folder, and its missing parents, so that a power cut loses none of them. Raises OSError."""
    if folder.is_dir():
        return
    make_folder(folder.parent, mode)
    folder.mkdir(mode, exist_ok=True)
    sync_folder(folder.parent)


def sync_tree(root: Path) -> None:
    """Make everything below a folder, with its owners, survive a power cut. Links are not followed. Raises OSError."""
    for here, _, names in os.walk(root):
        for path in (here, *(os.path.join(here, name) for name in names)):
            if not os.path.islink(path):
                _sync(Path(path))


def sync_folder(folder: Path) -> None:
    """Make names that were added to or taken from a folder survive a power cut."""
    _sync(folder, os.O_DIRECTORY)


def _sync(path: Path, flags: int = 0) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _holds(path: Path, data: bytes) -> bool:
    try:
        return path.stat().st_size == len(data) and path.read_bytes() == data
    except FileNotFoundError:
        return False
