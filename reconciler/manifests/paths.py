"""Files and folders outside git → manifests, chosen as from git. For commands that take paths: the limits are wide."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from reconciler.errors import ManifestError
from reconciler.manifests.documents import MAX_FILE_BYTES, read_file
from reconciler.manifests.manifest import Manifests, joined, unreadable
from reconciler.manifests.selection import IGNORE_FILE, MAX_IGNORE_BYTES, SUFFIXES, Ignore, is_manifest
from reconciler.model import Origin, Reason

MAX_FILES = 20_000
MAX_BYTES = 64 << 20
MAX_DOCUMENTS = 50_000


def read_paths(paths: Sequence[Path]) -> Manifests:
    """Files as given, and the manifests below folders. As in git, links found in a folder are refused."""
    return joined([part for path in paths for part in _read_given(path)])


def _read_given(path: Path) -> Iterator[Manifests]:
    try:
        tree = _Tree(_top_of(path))
        if not path.is_dir():
            yield from _read_named(path, tree)
            return
    except (OSError, ValueError) as error:  # a name too long, or with a zero byte
        yield unreadable(_shown(path), 1, "Unreadable", f"cannot be read: {error}")
        return
    found = 0
    for found, part in enumerate(islice(_below(path, tree), MAX_FILES + 1), start=1):
        if found > MAX_FILES:
            yield unreadable(_shown(path), 1, "TooLarge", f"more than {MAX_FILES} files; the rest is not read")
            return
        yield part
    if not found:
        yield unreadable(_shown(path), 1, "NoFiles", f"there is no file named *{' or *'.join(SUFFIXES)} in this folder")


@dataclass(frozen=True, slots=True)
class _Tree:
    """What a git repository would be: its top folder, and what its ignore files say."""

    top: Path
    ignore: Ignore = field(default_factory=Ignore)

    def name(self, path: Path) -> str:
        """A path as the repository calls it."""
        return os.fsencode(os.path.relpath(path, self.top)).decode("utf-8", "replace").removeprefix("./")

    def why_ignored(self, path: Path) -> Reason | None:
        return self.ignore.why(self.name(path))

    def read_ignore(self, folder: Path) -> Iterator[Manifests]:
        """Take a folder's ignore file into account, if there is one; what is wrong with it."""
        file = folder / IGNORE_FILE
        if not os.path.lexists(file):
            return
        data = _content(file, MAX_IGNORE_BYTES + 1, follow=False)
        if isinstance(data, Manifests):
            yield data
            return
        name = self.name(folder)
        try:
            self.ignore.add("" if name == "." else name, data, _shown(file))
        except ManifestError as error:
            yield unreadable(error.file, error.line, "InvalidIgnore", error.message)


def _top_of(path: Path) -> Path:
    """The working tree that a path is in; without git, its own folder."""
    at = Path(os.path.abspath(path))
    folders = (at, *at.parents) if at.is_dir() else at.parents
    return next((each for each in folders if (each / ".git").exists()), folders[0])


def _above(path: Path, tree: _Tree) -> Iterator[Path]:
    """The folders of the working tree above a path, the outermost first."""
    yield from (each for each in reversed(Path(os.path.abspath(path)).parents) if each.is_relative_to(tree.top))


def _read_named(path: Path, tree: _Tree) -> Iterator[Manifests]:
    """A file that is given by its name: hidden or not, and a link is followed. What is ignored stays so."""
    for folder in _above(path, tree):
        yield from tree.read_ignore(folder)
    if why := tree.why_ignored(path):
        yield Manifests(notes=(Reason(why.code, f"{why.message} ({why.origin})", Origin(_shown(path), 1)),))
    else:
        yield _read_one(path, follow=True)


def _below(folder: Path, tree: _Tree) -> Iterator[Manifests]:
    for above in _above(folder, tree):
        yield from tree.read_ignore(above)
    failures: list[OSError] = []
    for root, folders, files in os.walk(folder, onerror=failures.append):
        here = Path(root)
        yield from tree.read_ignore(here)
        folders[:] = sorted(name for name in folders if _counts(here / name, tree))
        for name in list(folders):
            if (here / name).is_symlink():
                yield unreadable(_shown(here / name), 1, "Refused", "is a link; only real folders are read")
            elif os.path.lexists(here / name / ".git"):
                folders.remove(name)
                yield unreadable(_shown(here / name), 1, "Refused", "is a submodule; put its files here")
        for name in sorted(files):
            if _counts(here / name, tree):
                yield from _read_found(here / name, tree)
    for failure in failures:
        yield unreadable(_shown(Path(failure.filename)), 1, "Unreadable", f"cannot be read: {failure.strerror}")


def _counts(path: Path, tree: _Tree) -> bool:
    return not path.name.startswith(".") and tree.why_ignored(path) is None


def _read_found(path: Path, tree: _Tree) -> Iterator[Manifests]:
    if is_manifest(path.name):
        yield _read_one(path, follow=False)
    elif path.is_symlink() and not _leads_to_file(path, tree):
        yield unreadable(_shown(path), 1, "Refused", "is a link that may stand for a folder; only real ones are read")


def _leads_to_file(link: Path, tree: _Tree) -> bool:
    try:
        end = link.resolve(strict=True)
    except (OSError, RuntimeError):
        return False
    return end.is_file() and end.is_relative_to(tree.top.resolve())


def _read_one(path: Path, *, follow: bool) -> Manifests:
    data = _content(path, MAX_BYTES + 1, follow=follow)
    if isinstance(data, Manifests):
        return data
    found = read_file(_shown(path), data, MAX_BYTES, MAX_DOCUMENTS)
    if len(data) > MAX_FILE_BYTES and not found.unreadable:
        limit = f"source.max_file_bytes, {MAX_FILE_BYTES:,} unless set"
        text = f"has {len(data):,} bytes: a daemon refuses files above {limit}"
        return joined([Manifests(notes=(Reason("FileTooLarge", text, Origin(_shown(path), 1)),)), found])
    return found


def _content(path: Path, most: int, *, follow: bool) -> bytes | Manifests:
    """What is in a file, or why it cannot be read."""
    try:
        # Nothing that is not a regular file is ever opened for real: reading a pipe would wait for ever.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW))
    except OSError as error:
        if not follow and path.is_symlink():
            return unreadable(_shown(path), 1, "Refused", "is a link; only real files are read")
        return unreadable(_shown(path), 1, "Unreadable", f"cannot be read: {error.strerror}")
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            return unreadable(_shown(path), 1, "Refused", "is not a regular file")
        return file.read(most)


def _shown(path: Path) -> str:
    """The name as text that can be printed: names of files are bytes."""
    return os.fsencode(path).decode("utf-8", "replace")
