"""The kernel's wall around what this program, and whatever it starts, may write: Landlock, from Linux 5.19 on."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

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
