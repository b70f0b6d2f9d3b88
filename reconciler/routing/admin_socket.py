"""The name of Envoy's admin socket, which can be put back when it was deleted: a second name of the same socket.

Envoy makes its socket once. Without its name nobody can tell it anything any more, though it serves on.
"""

from __future__ import annotations

import errno
import os
import socket
from contextlib import closing, suppress
from pathlib import Path

SOCKET = "admin.sock"
# In a folder of its own: what sweeps sockets out of the proxy's folder leaves this one.
_KEPT = Path("kept") / SOCKET


def keep(folder: Path) -> None:
    """Give the socket its second name. What cannot be done is tried again at the next look."""
    named, kept = folder / SOCKET, folder / _KEPT
    with suppress(OSError):
        kept.parent.mkdir(mode=0o700, exist_ok=True)
        if kept.exists() and kept.samefile(named):
            return
        _link(named, kept)


def restore(folder: Path) -> bool:
    """Put the first name back, whatever stands in its place. False: nothing was to be done."""
    named, kept = folder / SOCKET, folder / _KEPT
    try:
        # What another Envoy left is a name of nothing, and must not take the place of a new one.
        if _listens(folder, SOCKET) or not _listens(folder, str(_KEPT)):
            return False
        _link(kept, named)
    except OSError:
        return False
    return True


def forget(folder: Path) -> None:
    """Another Envoy makes another socket."""
    for name in (folder / SOCKET, folder / _KEPT):
        name.unlink(missing_ok=True)


def _listens(folder: Path, name: str) -> bool:
    """Goes through the folder's descriptor, because the path of a socket may have only 107 characters."""
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)) as probe:
        opened = os.open(folder, os.O_PATH | os.O_DIRECTORY)
        try:
            return probe.connect_ex(f"/proc/self/fd/{opened}/{name}") in (0, errno.EAGAIN)
        finally:
            os.close(opened)


def _link(old: Path, new: Path) -> None:
    half = new.with_name(f"{new.name}.new")
    half.unlink(missing_ok=True)
    os.link(old, half)
    half.replace(new)
