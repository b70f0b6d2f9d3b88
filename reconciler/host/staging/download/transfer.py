"""Fetch all files of a source, several at a time; what is there once is not fetched again."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from reconciler.host.staging.download.checksums import Checksum
from reconciler.host.staging.download.failures import (
    DownloadFailed,
    DownloadRefused,
    disk_full,
    explained_disk,
    free_bytes,
)
from reconciler.host.staging.download.progress import DownloadProgress
from reconciler.model import ReasonCode
from reconciler.system.files import sync_folder

_CHUNK = 1 << 18


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file of a source. `tag` changes when its content does; empty: the source does not tell.

    `path` is where it belongs in the model's folder, `name` what the source calls it. `ranged`: it can be read from any
    byte on.
    """

    path: str
    name: str
    size: int | None
    tag: str
    ranged: bool = True


class FileSource(Protocol):
    """A place that files are read from. Everything raises DownloadFailed."""

    def files(self) -> tuple[RemoteFile, ...]:
        """All files of the model."""

    def read(self, file: RemoteFile, start: int) -> Iterator[bytes]:
        """The bytes from `start` on."""

    def checksum(self, file: RemoteFile) -> Checksum:
        """What the source offers to verify it by."""


class Transfer:
    """One model's way into `<content>.partial`."""

    def __init__(self, source: FileSource, uri: str, folder: Path, progress: DownloadProgress) -> None:
        self._source = source
        self._uri = uri
        self._folder = folder
        self._progress = progress
        self._stop = threading.Event()

    def run(self) -> tuple[Path, str]:
        """Fetch what is not there yet: the folder, and the name that its content gets. Raises DownloadFailed."""
        files = self._source.files()
        for file in files:
            _check_path(file.path)
        content = _content_name(self._uri, files)
        if (self._folder / content).is_dir():
            return self._folder / content, content
        partial = self._folder / f"{content}.partial"
        self._prepare(partial, files)
        needed = [file for file in files if not _is_complete(partial / file.path, file)]
        self._measure(files, needed)
        with ThreadPoolExecutor(int(os.environ.get("S3_MAX_FILE_CONCURRENCY", "4"))) as pool:
            outcomes = [pool.submit(self._fetch, file, partial) for file in needed]
        for outcome in outcomes:
            outcome.result()
        return partial, content

    def _prepare(self, partial: Path, files: tuple[RemoteFile, ...]) -> None:
        """Room for it, and nothing left of attempts at what the source held before."""
        for other in self._folder.glob("*.partial"):
            if other != partial:
                shutil.rmtree(other)
        unfinished = self._folder / "unfinished"
        unfinished.mkdir(exist_ok=True)
        partial.mkdir(exist_ok=True)
        known = {_unfinished_name(file) for file in files if file.tag and file.ranged}
        for path in unfinished.iterdir():
            if path.name not in known:
                path.unlink()

    def _measure(self, files: tuple[RemoteFile, ...], needed: list[RemoteFile]) -> None:
        """Tell how much there is, and whether it fits. Raises DownloadFailed."""
        sizes = [file.size for file in files]
        total = None if None in sizes else sum(size or 0 for size in sizes)
        begun = sum(_size(self._unfinished(file)) for file in needed)
        done = sum(_size(path) for path in self._folder.glob("*.partial/**/*") if path.is_file()) + begun
        self._progress.begin(done, total)
        need, free = sum(file.size or 0 for file in needed) - begun, free_bytes(self._folder)
        if need > free:
            raise disk_full(f"{self._folder}: {_mib(need)} are needed and {_mib(free)} are free")

    def _fetch(self, file: RemoteFile, partial: Path) -> None:
        if self._stop.is_set():
            return
        try:
            with explained_disk(str(self._folder)):
                self._fetch_file(file, partial / file.path)
        except BaseException:
            # The first failure ends the others: they would only be in the way of what comes next.
            self._stop.set()
            raise

    def _fetch_file(self, file: RemoteFile, target: Path) -> None:
        unfinished, checksum = self._unfinished(file), self._source.checksum(file)
        with open(unfinished, "ab+") as out:
            start = _read_again(out.fileno(), checksum)
            if file.size is None or start < file.size:
                have = start
                for data in self._source.read(file, start):
                    self._make_sure_of_room(len(data))
                    out.write(data)
                    out.flush()
                    checksum.update(data)
                    self._progress.add(len(data))
                    have += len(data)
                    if self._stop.is_set():
                        return
                    if file.size is not None and have > file.size:
                        # What more there is, there may be no end of.
                        break
            os.fsync(out.fileno())
        self._verify(file, unfinished, checksum)
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished.rename(target)
        sync_folder(target.parent)

    def _verify(self, file: RemoteFile, path: Path, checksum: Checksum) -> None:
        have = _size(path)
        if file.size is not None and have < file.size:
            raise DownloadFailed(
                ReasonCode.SOURCE_FAILED, f"{file.name}: the source ended after {have} of {file.size} bytes"
            )
        if have == file.size and checksum.matches():
            return
        if file.size is None and checksum.matches():
            return
        # What is there cannot be trusted: from the beginning, next time.
        path.unlink()
        self._progress.add(-have)
        what = "its checksum differs from the source's" if have == file.size else "it is longer than it was"
        raise DownloadFailed(ReasonCode.CHECKSUM_MISMATCH, f"{file.name}: {what}; it is fetched again")

    def _unfinished(self, file: RemoteFile) -> Path:
        return self._folder / "unfinished" / _unfinished_name(file)

    def _make_sure_of_room(self, count: int) -> None:
        """Records and logs must still find room when the disk fills."""
        if free_bytes(self._folder) < count:
            raise disk_full(f"{self._folder}: the disk is full")


def _read_again(descriptor: int, checksum: Checksum) -> int:
    """The bytes that are there already count for the checksum as well."""
    position = 0
    while data := os.pread(descriptor, _CHUNK, position):
        checksum.update(data)
        position += len(data)
    return position


def _check_path(path: str) -> None:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\0" in path:
        raise DownloadRefused(ReasonCode.UNSAFE_PATH, f"{path!a}: a file that would be outside of the model's folder")


def _content_name(uri: str, files: tuple[RemoteFile, ...]) -> str:
    lines = sorted(f"{file.path}\0{file.size}\0{file.tag}" for file in files)
    return hashlib.sha256("\n".join([uri, *lines]).encode()).hexdigest()[:16]


def _unfinished_name(file: RemoteFile) -> str:
    return hashlib.sha256(f"{file.path}\0{file.size}\0{file.tag}".encode()).hexdigest()[:32]


def _is_complete(path: Path, file: RemoteFile) -> bool:
    """It was verified before it got this name; a file of another size was changed afterwards."""
    return path.is_file() and (file.size is None or _size(path) == file.size)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _mib(amount: int) -> str:
    return f"{max(amount, 0) / (1 << 20):.1f} MiB"
