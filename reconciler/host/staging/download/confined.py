"""The program writes into its own folders and nowhere else, whatever names the source's files have.

The libraries that it leaves the work to join names from a source to paths as they are; and not everywhere is it in a
sandbox that knows no other folder. The kernel keeps it inside; where the kernel is too old for that, and in any case to
say which path it was, Python's own calls are watched.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from reconciler.host.staging.download.failures import DownloadRefused
from reconciler.model import ReasonCode

# The numbers are the same on every machine that Python 3.11 is built for.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_ASK_VERSION, _PATH_BENEATH = 1, 1
_PR_SET_NO_NEW_PRIVS = 38
_WRITE_FILE, _REMOVE_DIR = 1 << 1, 1 << 4
# Write, remove, make anything, move from one folder to another.
_EVERYTHING = _WRITE_FILE | sum(1 << bit for bit in range(4, 14))
_TRUNCATE = 1 << 14
# The first version that lets a file be moved to another folder at all; the first that knows of truncate.
_MOVES, _TRUNCATES = 2, 3

_libc = ctypes.CDLL(None, use_errno=True)


def restrict_writes(folders: Iterable[Path], emptied: Path) -> bool:
    """From now on this thread, and all that it starts, writes below `folders` only. Cannot be taken back.

    Below `emptied` it may remove empty folders. False where the kernel has no Landlock, or too old a one: then nothing
    is restricted. Raises OSError when it has one that does not do it.
    """
    version = _libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _ASK_VERSION)
    if version < _MOVES:
        return False
    writes = _EVERYTHING | (_TRUNCATE if version >= _TRUNCATES else 0)
    with _ruleset(writes) as rules:
        for folder in folders:
            _allow(rules, folder, writes)
        _allow(rules, emptied, _REMOVE_DIR)
        _allow(rules, Path(os.devnull), writes & (_WRITE_FILE | _TRUNCATE))
        _checked(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        _checked(_libc.syscall(_RESTRICT_SELF, rules, 0))
    return True


@contextmanager
def _ruleset(handled: int) -> Iterator[int]:
    attributes = struct.pack("=Q", handled)
    rules = _checked(_libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0))
    try:
        yield rules
    finally:
        os.close(rules)


def _allow(rules: int, path: Path, access: int) -> None:
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        _checked(_libc.syscall(_ADD_RULE, rules, _PATH_BENEATH, struct.pack("=Qi", access, place), 0))
    finally:
        os.close(place)


def _checked(result: int) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"Landlock: {os.strerror(error)}")
    return result


# ---------------------------------------------------------------- Python's own calls

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
# Where the paths that are changed stand among what Python tells of a call, and the open folders that they begin at.
_CHANGED: dict[str, tuple[tuple[int, int | None], ...]] = {
    "os.chmod": ((0, 2),),
    "os.chown": ((0, 3),),
    "os.link": ((1, 3),),
    "os.mkdir": ((0, 2),),
    "os.remove": ((0, 1),),
    "os.rename": ((0, 2), (1, 3)),
    "os.rmdir": ((0, 1),),
    "os.setxattr": ((0, None),),
    "os.symlink": ((1, 2),),
    "os.truncate": ((0, None),),
    "os.utime": ((0, 3),),
}
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108

_PR_SET_DUMPABLE = 4


def close_memory() -> None:
    """Other processes of this user, which download for others, see nothing of our request."""
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def confine(temporary: Path, *folders: Path) -> None:
    """From now on, and forever, refuse to write outside of `folders`. All of these exist, `temporary` in one of them.

    Called before another thread is started, and before code of others is loaded.
    """
    tempfile.tempdir = os.environ["TMPDIR"] = str(temporary)
    own = tuple(os.path.realpath(each) for each in folders)
    restrict_writes(folders, emptied=_SHARED_MEMORY)

    def look(event: str, arguments: tuple[Any, ...]) -> None:
        for path in _changed(event, arguments):
            if not _is_below(path, own):
                raise DownloadRefused(ReasonCode.UNSAFE_PATH, f"{path!a}: would be outside of the model's folder")

    sys.addaudithook(look)


def _changed(event: str, arguments: tuple[Any, ...]) -> Iterator[str]:
    if event == "open":
        # What folder a relative path begins at is unknown: only the kernel knows that.
        path, _, flags = arguments
        if flags & _WRITING and isinstance(path, (str, bytes)):
            yield os.fsdecode(path)
        return
    for at, folder_at in _CHANGED.get(event, ()):
        if isinstance(arguments[at], (str, bytes)):
            folder = arguments[folder_at] if folder_at is not None else -1
            begin = os.readlink(f"/proc/self/fd/{folder}") if folder >= 0 else ""
            yield os.path.join(begin, os.fsdecode(arguments[at]))


def _is_below(path: str, own: tuple[str, ...]) -> bool:
    real = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    if os.path.islink(real):
        real = os.path.realpath(real)
    return real == os.devnull or any(real == each or real.startswith(f"{each}/") for each in own)
