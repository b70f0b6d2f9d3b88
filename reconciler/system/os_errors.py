"""What the operating system refused → text with a next step; and whether this process is out of resources."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import TypeGuard

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
