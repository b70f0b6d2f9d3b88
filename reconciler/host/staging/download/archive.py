"""A model that came as one archive is unpacked, as kserve-storage does it."""

from __future__ import annotations

import mimetypes
import os
import posixpath
import shutil
import tarfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TypeVar

from reconciler.host.staging.download.failures import (
    MOST_FILES,
    DownloadFailed,
    DownloadRefused,
    disk_full,
    explained_disk,
    free_bytes,
    too_many_files,
)
from reconciler.model import ReasonCode

TAR, ZIP = "application/x-tar", "application/zip"
_EACH = 512
_LONGEST_PATH = 4096
_BROKEN = (tarfile.TarError, zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError, OverflowError)
# One path is a file and a folder.
_CLASHES = (FileExistsError, IsADirectoryError, NotADirectoryError)
_T = TypeVar("_T")


def unpack_if_lone(partial: Path, target: Path) -> Path:
    """The folder to take: `target` if `partial` holds one archive and nothing else. Raises DownloadFailed."""
    found = [path for path in partial.rglob("*") if not path.is_dir()]
    if len(found) != 1 or (kind := mimetypes.guess_type(found[0].name)[0]) not in (TAR, ZIP):
        return partial
    # What an attempt that was cut off left behind is of no use.
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    try:
        with explained_disk(str(target)):
            _untar(found[0], target) if kind == TAR else _unzip(found[0], target)
    except (*_BROKEN, *_CLASHES) as error:
        raise DownloadRefused(ReasonCode.INVALID_ARCHIVE, f"{found[0].name}: cannot be unpacked: {error}") from None
    return target


def _untar(archive: Path, target: Path) -> None:
    with tarfile.open(archive, "r:*", encoding="utf-8") as file:
        members = list(_fitting(target, _counted(archive.name, file)))
        _check_members(archive.name, members)
        # The oldest Pythons that we run on have no filters, and some that have them can be fooled.
        file.extraction_filter = getattr(tarfile, "data_filter", None)
        file.extractall(target, members, numeric_owner=True)  # noqa: S202 - looked through just above


def _counted(archive: str, members: Iterable[_T]) -> Iterator[_T]:
    """No more than any model has: each takes memory before anything is unpacked. Raises Refused."""
    for number, member in enumerate(members):
        if number >= MOST_FILES:
            raise too_many_files(archive)
        yield member


def _fitting(target: Path, members: Iterable[tarfile.TarInfo]) -> Iterator[tarfile.TarInfo]:
    """Those that there is room for. To find the next, all of this one is unpacked: a bomb ends before its first."""
    need, free = 0, free_bytes(target)
    for member in members:
        need += member.size + _EACH
        if need > free:
            raise _no_room(target, need)
        yield member


def _check_members(archive: str, members: Sequence[tarfile.TarInfo]) -> None:
    """Nothing may be, or point, outside, nor be written through a link; and we own all of it. Raises Refused."""
    files: set[str] = set()
    links: set[str] = set()
    for member in members:
        name = _inside(archive, member.name)
        if name in links or any(str(parent) in links for parent in PurePosixPath(name).parents):
            raise DownloadRefused(ReasonCode.UNSAFE_PATH, f"{archive}: {member.name!a} would be written through a link")
        if member.issym():
            _check_link(archive, name, member.linkname)
            links.add(name)
        elif member.isreg() or (member.islnk() and _inside(archive, member.linkname) in files):
            files.add(name)
        elif not member.isdir():
            raise DownloadRefused(
                ReasonCode.UNSAFE_PATH, f"{archive}: {member.name!a} is not a file, folder or link to one"
            )
        member.uid, member.gid = os.geteuid(), os.getegid()
        member.mode = 0o700 if member.isdir() else 0o600


def _inside(archive: str, path: str) -> str:
    """A path below the archive's top, in its shortest form. Raises Refused."""
    if len(path) > _LONGEST_PATH:
        raise DownloadRefused(ReasonCode.UNSAFE_PATH, f"{archive}: holds a path of {len(path):,} characters")
    if path.startswith("/") or ".." in path.split("/"):
        raise DownloadRefused(ReasonCode.UNSAFE_PATH, f"{archive}: {path!a} would be outside of the model's folder")
    return posixpath.normpath(path)


def _check_link(archive: str, name: str, to: str) -> None:
    """`..` may begin it only: after the name of another link it would lead on from where that points."""
    parts = to.split("/")
    up = next((at for at, part in enumerate(parts) if part != ".."), len(parts))
    if to.startswith("/") or ".." in parts[up:] or up > name.count("/"):
        raise DownloadRefused(
            ReasonCode.UNSAFE_PATH, f"{archive}: {name!a} points to {to!a}, outside of the model's folder"
        )


def _unzip(archive: Path, target: Path) -> None:
    with zipfile.ZipFile(archive) as file:
        for each in _counted(archive.name, file.infolist()):
            path = PurePosixPath(each.filename)
            if path.is_absolute() or ".." in path.parts or "\\" in each.filename:
                raise DownloadRefused(
                    ReasonCode.UNSAFE_PATH, f"{archive.name}: {each.filename!a} would be outside of the model's folder"
                )
        _check_room(target, (each.file_size for each in file.infolist()))
        file.extractall(target)  # noqa: S202 - looked through just above


def _check_room(target: Path, sizes: Iterable[int]) -> None:
    # An empty file takes room as well.
    need = sum(size + _EACH for size in sizes)
    if need > free_bytes(target):
        raise _no_room(target, need)


def _no_room(target: Path, need: int) -> DownloadFailed:
    return disk_full(f"{target.parent}: unpacking needs {need >> 20} MiB or more, and there is less room")
