"""A model that came as one archive is unpacked, as kserve-storage does it."""

from __future__ import annotations

import mimetypes
import os
import shutil
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

from reconciler.storage.download.failures import Refused, disk_full, explained_disk

TAR, ZIP = "application/x-tar", "application/zip"


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
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise Refused("BadArchive", f"{found[0].name}: cannot be unpacked: {error}") from None
    return target


def _untar(archive: Path, target: Path) -> None:
    with tarfile.open(archive, "r:*", encoding="utf-8") as file:
        members = file.getmembers()
        _check_room(target, sum(member.size for member in members if member.isreg()))
        # It refuses what would lie, or point, outside.
        file.extractall(target, members, filter="data")


def _unzip(archive: Path, target: Path) -> None:
    with zipfile.ZipFile(archive) as file:
        for each in file.infolist():
            path = PurePosixPath(each.filename)
            if path.is_absolute() or ".." in path.parts or "\\" in each.filename:
                raise Refused(
                    "UnsafePath", f"{archive.name}: {each.filename!a} would lie outside of the model's folder"
                )
        _check_room(target, sum(each.file_size for each in file.infolist()))
        file.extractall(target)  # noqa: S202 - looked through just above


def _check_room(target: Path, need: int) -> None:
    disk = os.statvfs(target)
    if need > disk.f_bavail * disk.f_frsize:
        raise disk_full(f"{target.parent}: unpacking needs {need >> 20} MiB more than there is room for")
