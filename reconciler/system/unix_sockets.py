"""Unix sockets: paths of any length, and whether a process answers."""

from __future__ import annotations

import errno
import os
import pwd
import socket
import stat
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NO_LOGIN = 2**32 - 1


@contextmanager
def short_path(path: Path) -> Iterator[str]:
    """A name for `path` that fits the kernel's 107 bytes, however deep its folder is. Raises OSError."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


@contextmanager
def exact_path(path: Path) -> Iterator[str]:
    """A name of the socket itself that fits: a link in its place is not followed. Raises OSError."""
    opened = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISSOCK(os.fstat(opened).st_mode):
            raise OSError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK))
        yield f"/proc/self/fd/{opened}"
    finally:
        os.close(opened)


def connect(path: Path, timeout: float) -> socket.socket:
    """Raises OSError: FileNotFoundError or ConnectionRefusedError when nothing listens."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    connection.settimeout(timeout)
    try:
        _await_connection(connection, path, timeout)
    except BaseException:
        connection.close()
        raise
    return connection


def _await_connection(connection: socket.socket, path: Path, timeout: float) -> None:
    """A crowd before us is waited for: with a timeout, the kernel itself says at once that there is no room."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            with short_path(path) as near:
                return connection.connect(near)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise TimeoutError(f"no response within {timeout:g} s") from None
            time.sleep(0.02)


def answers(path: Path) -> bool:
    """Does a process accept connections there?"""
    try:
        connect(path, timeout=1.0).close()
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def listener_pid(path: Path) -> int | None:
    """The process that listens there, or None. Raises OSError when we may not ask."""
    try:
        with connect(path, timeout=1.0) as connection:
            return _credentials(connection)[0]
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        return None


def peer_uid(connection: socket.socket) -> int:
    """User id of the process at the other end, as the kernel knows it."""
    return _credentials(connection)[1]


def peer(connection: socket.socket) -> tuple[int, int]:
    """Process and user at the other end."""
    return _credentials(connection)[:2]


def person(pid: int, user: int) -> str:
    """The owner of a process: the name of its user, and of the login user if `sudo` made that another one."""
    try:
        login = int(Path(f"/proc/{pid}/loginuid").read_text())
    except (OSError, ValueError):
        login = user
    return _user_name(user) if login in (user, _NO_LOGIN) else f"{_user_name(login)} (as {_user_name(user)})"


def _user_name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"user {user}"


def _credentials(connection: socket.socket) -> tuple[int, int, int]:
    """Process, user and group."""
    size = struct.calcsize("3i")
    pid, user, group = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return int(pid), int(user), int(group)


def identity(path: Path) -> tuple[int, int] | None:
    """The file at a path, whatever its name becomes; None if there is none."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
