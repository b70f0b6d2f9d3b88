"""The name of Envoy's admin socket, which can be put back when it was deleted: a second name of the same socket.

Envoy makes its socket once. Without its name it cannot be configured any more, though it keeps serving.
"""

from __future__ import annotations

import errno
import os
import socket
from contextlib import suppress
from pathlib import Path

from reconciler.system.unix_sockets import exact_path

SOCKET = "admin.sock"
OWN = "admin"
"""The folder of the socket of a proxy that has a user of its own: nothing else is that user's to write."""
# In a folder of its own: what sweeps sockets out of the proxy's folder leaves this one.
_KEPT = Path("kept") / SOCKET
_PLACES = (Path(OWN) / SOCKET, Path(SOCKET))


def connect(folder: Path, timeout: float) -> socket.socket:
    """To the Envoy of this folder. One that was started by an older release listens in the folder itself."""
    problem: OSError | None = None
    for place in _PLACES:
        try:
            return _connect(folder, place, timeout)
        except OSError as error:
            # A socket that exists says more than one that does not.
            problem = error if problem is None or isinstance(problem, FileNotFoundError) else problem
    raise problem or FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))


def keep(folder: Path) -> None:
    """Give the socket its second name. A failure is retried at the next check."""
    kept = folder / _KEPT
    with suppress(OSError):
        named = next((place for place in _PLACES if _listens(folder, place)), Path(SOCKET))
        kept.parent.mkdir(mode=0o700, exist_ok=True)
        if kept.exists() and os.path.samestat(kept.lstat(), (folder / named).lstat()):
            return
        _link(folder / named, kept)


def restore(folder: Path) -> bool:
    """Restore the first name, whatever is in its place. False: nothing was to be done."""
    kept = folder / _KEPT
    named = folder / _PLACES[0 if (folder / OWN).is_dir() else 1]
    try:
        # What another Envoy left is a name of nothing, and must not take the place of a new one.
        if any(_listens(folder, place) for place in _PLACES) or not _listens(folder, _KEPT):
            return False
        _link(kept, named)
    except OSError:
        return False
    return True


def forget(folder: Path) -> None:
    """Another Envoy makes another socket."""
    for place in (*_PLACES, _KEPT):
        with suppress(OSError):
            (folder / place).unlink()


def _listens(folder: Path, place: Path) -> bool:
    try:
        _connect(folder, place, 0).close()
    except BlockingIOError:
        return True
    except OSError:
        return False
    return True


def _connect(folder: Path, place: Path, timeout: float) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout)
        with exact_path(folder / place) as near:
            connection.connect(near)
    except OSError:
        connection.close()
        raise
    return connection


def _link(old: Path, new: Path) -> None:
    half = new.with_name(f"{new.name}.new")
    half.unlink(missing_ok=True)
    os.link(old, half, follow_symlinks=False)
    half.replace(new)
