"""Files that are either as they were or as they should be, when they changed, and whether there is room for them."""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeGuard

from reconciler.model import Reason, ReasonCode, host_reason

_FILES = "this process has too many open files: raise its limit (LimitNOFILE), and report it if it comes back"
_MEMORY = "this host, or the limit of this process (MemoryMax, TasksMax), has no more: free some, or raise it"
_LACKS = {
    errno.EMFILE: _FILES,
    errno.ENFILE: "this host has too many open files: end what holds them, or raise fs.file-max",
    errno.ENOMEM: _MEMORY,
    errno.ENOBUFS: _MEMORY,
    errno.EAGAIN: _MEMORY,
}


def is_out_of_resources(error: BaseException | None) -> TypeGuard[OSError]:
    """Is this process out of resources? That says nothing about what was probed or read."""
    return isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)


def error_text(error: OSError, path: Path | None = None) -> str:
    """One line for people."""
    name = path or error.filename
    what = f"{name}: " if name else ""
    if (cause := _LACKS.get(error.errno or 0)) is not None:
        return f"{what}{error.strerror or error}; {cause}"
    return f"{what}{error.strerror or error}; see whether the disk is mounted, writable and not full"


def cannot(error: OSError, path: Path | str, be: str, advice: str = "") -> str:
    """One line for people: what cannot be done to `path`, why, and what to do. A lack of resources has other advice."""
    advice = _LACKS.get(error.errno or 0, advice)
    return f"{path}: cannot be {be}: {error.strerror or error}{advice and f'; {advice}'}"


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

    Nothing else is opened, not even for a moment: a pipe makes its reader wait forever, and some devices act on it.
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
            why = "its disk is mounted read-only" if found.f_flag & os.ST_RDONLY else "we may not write there"
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
