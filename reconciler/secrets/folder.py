"""Secret manifests in a folder outside git: one of the host's own, or that of the daemon's systemd credentials."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from reconciler.errors import Terminal
from reconciler.manifests import SUFFIXES, Manifests, Unreadable
from reconciler.manifests.documents import read_file
from reconciler.model import Origin, Reason, ReasonCode
from reconciler.secrets.private import MAX_BYTES, check_folder, read_private
from reconciler.system.os_errors import cannot

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
