"""A disk in the moment of a power cut: what of all that was written would still be there?

Only what was synced is sure to be: the bytes of a file by `fsync` of it, a name by `fsync` of its folder. `Disk`
watches those calls, and tells at any moment the two worst answers: names that are as old as they can be, and names that
are new already while the bytes behind them are still missing.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

Files = dict[str, bytes]
_FOLDER = object()


class Disk:
    """The folders in `roots` with all below them; what is there at first is safe."""

    def __init__(self, *roots: Path) -> None:
        self.roots = roots
        self.cuts: list[Callable[[], None]] = []
        self._numbers = itertools.count()
        # An inode's number is used again for another file; these are not.
        self._tokens: dict[tuple[int, int], int] = {}
        self._bytes: dict[int, bytes] = {}
        self._names: dict[int, dict[str, tuple[int, bool]]] = {}
        for root in roots:
            self._trust(root)

    @contextlib.contextmanager
    def watched(self, cut: Callable[[], None]) -> Iterator[None]:
        """Calls `cut` at every moment at which the answer may have changed."""
        real = {name: getattr(os, name) for name in ("fsync", "replace", "rename", "unlink", "remove", "rmdir")}

        def fsync(descriptor: int) -> None:
            real["fsync"](descriptor)
            self._sync(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
            cut()

        def renaming(name: str) -> Callable[..., None]:
            def rename(source: str, target: str, **named: object) -> None:
                self._forget(target)
                real[name](source, target, **named)
                cut()

            return rename

        def deleting(name: str) -> Callable[..., None]:
            def delete(path: str, *, dir_fd: int | None = None) -> None:
                self._forget(path, dir_fd)
                real[name](path, dir_fd=dir_fd)
                cut()

            return delete

        with contextlib.ExitStack() as stack:
            stack.enter_context(mock.patch.object(os, "fsync", fsync))
            for name in ("replace", "rename"):
                stack.enter_context(mock.patch.object(os, name, renaming(name)))
            for name in ("unlink", "remove", "rmdir"):
                stack.enter_context(mock.patch.object(os, name, deleting(name)))
            yield

    def oldest(self) -> Files:
        """Every name is as it was when its folder was last synced."""
        return {path: data for root in self.roots for path, data in self._old(str(root), self._token(os.lstat(root)))}

    def newest(self) -> Files:
        """Every name is as it is, but what was not synced of a file is not in it."""
        found: Files = {}
        for root in self.roots:
            for path in root.rglob("*"):
                if not path.is_dir() or path.is_symlink():
                    found[str(path)] = self._bytes.get(self._token(path.lstat()), b"")
        return found

    # ------------------------------------------------------------

    def _old(self, path: str, token: int) -> Iterator[tuple[str, bytes]]:
        for name, (below, is_folder) in self._names.get(token, {}).items():
            if is_folder:
                yield from self._old(f"{path}/{name}", below)
            else:
                yield f"{path}/{name}", self._bytes.get(below, b"")

    def _trust(self, folder: Path) -> None:
        self._sync(folder)
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                self._trust(path)
            else:
                self._sync(path)

    def _sync(self, path: Path) -> None:
        if not any(path.is_relative_to(root) for root in self.roots):
            return
        info = path.lstat()
        if not stat.S_ISDIR(info.st_mode):
            self._bytes[self._token(info)] = (
                path.read_bytes() if stat.S_ISREG(info.st_mode) else os.readlink(path).encode()
            )
            return
        self._names[self._token(info)] = names = {}
        with os.scandir(path) as entries:
            for entry in entries:
                token = self._token(entry.stat(follow_symlinks=False))
                names[entry.name] = (token, entry.is_dir(follow_symlinks=False))
                if entry.is_symlink():
                    # Where it leads is part of the name.
                    self._bytes[token] = os.readlink(entry.path).encode()

    def _token(self, info: os.stat_result) -> int:
        key = (info.st_dev, info.st_ino)
        if key not in self._tokens:
            self._tokens[key] = next(self._numbers)
        return self._tokens[key]

    def _forget(self, path: str, dir_fd: int | None = None) -> None:
        with contextlib.suppress(OSError):
            info = os.stat(path, dir_fd=dir_fd, follow_symlinks=False)
            self._tokens.pop((info.st_dev, info.st_ino), None)
