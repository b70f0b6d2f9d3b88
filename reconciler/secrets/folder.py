"""Secret manifests in a folder outside git that only its owner may read."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from reconciler.errors import Terminal
from reconciler.manifests import SUFFIXES, Manifests, Unreadable
from reconciler.manifests.documents import read_file
from reconciler.model import Origin, Reason, ReasonCode
from reconciler.system.files import cannot

MAX_BYTES = 1 << 20


def read_private(path: Path) -> bytes:
    """The bytes of a file of this user's or root's that is closed to everyone else. Raises Terminal, with the fix."""
    try:
        # A pipe would keep us waiting forever.
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


Stamp = tuple[tuple[object, ...], ...]


def stamp(place: Path) -> Stamp:
    """Equal stamps, equal content: the names, times and rights of all that is read in a folder, or of one file."""
    try:
        return (_of(place), *(_of(path) for path in (_files(place) if place.is_dir() else ())))
    except OSError as error:
        return ((str(place), error.errno),)


def _of(path: Path) -> tuple[object, ...]:
    info = path.stat()
    return path.name, info.st_ino, info.st_mtime_ns, info.st_ctime_ns, info.st_size, info.st_mode, info.st_uid


def _files(folder: Path) -> list[Path]:
    return sorted(
        Path(entry.path)
        for entry in os.scandir(folder)
        if entry.name.endswith(SUFFIXES) and not entry.name.startswith(".")
    )


def read_folder(folder: Path) -> Iterator[Manifests]:
    """The manifests in a user's folder. Files that others could read or change are not used, with an error."""
    try:
        check_folder(folder)
        files = _files(folder)
    except (Terminal, OSError) as error:
        yield _refused(folder, str(error))
        return
    for path in files:
        yield _read(path, read_private)


def read_credentials(folder: Path) -> Iterator[Manifests]:
    """The manifests among a unit's credentials; others are ignored. systemd itself keeps them closed."""
    try:
        files = _files(folder)
    except OSError as error:
        yield _refused(folder, f"{folder}: cannot be read: {error.strerror}")
        return
    for path in files:
        yield _read(path, read_open)


def read_open(path: Path) -> bytes:
    """Raises Terminal."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise Terminal(cannot(error, path, "read")) from None


def _read(path: Path, read: Callable[[Path], bytes]) -> Manifests:
    try:
        return read_file(str(path), read(path), MAX_BYTES)
    except Terminal as error:
        return _refused(path, str(error))


def _refused(path: Path, message: str) -> Manifests:
    text = message.removeprefix(f"{path}: ")
    return Manifests(unreadable=(Unreadable(Reason(ReasonCode.SECRETS_UNREADABLE, text, Origin(str(path), 1))),))
