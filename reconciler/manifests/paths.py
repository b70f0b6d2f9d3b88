"""Files and folders outside git → manifests. For commands that take paths: no daemon waits, so the limits are wide."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from reconciler.manifests.documents import read_file
from reconciler.manifests.manifest import Manifests, joined, unreadable

MAX_FILES = 20_000
MAX_BYTES = 64 << 20
MAX_DOCUMENTS = 50_000
SUFFIXES = (".yaml", ".yml")


def read_paths(paths: Sequence[Path]) -> Manifests:
    """Files as given, and the YAML files below folders. As in git, links found in a folder are refused."""
    return joined([part for path in paths for part in _read_given(path)])


def _read_given(path: Path) -> Iterator[Manifests]:
    try:
        if not path.is_dir():
            yield _read_one(path, follow=True)
            return
    except (OSError, ValueError) as error:  # a name too long, or with a zero byte
        yield unreadable(_shown(path), 1, "Unreadable", f"cannot be read: {error}")
        return
    found = 0
    for found, part in enumerate(islice(_below(path), MAX_FILES + 1), start=1):
        if found > MAX_FILES:
            yield unreadable(_shown(path), 1, "TooLarge", f"more than {MAX_FILES} files; the rest is not read")
            return
        yield part
    if not found:
        yield unreadable(_shown(path), 1, "NoFiles", f"there is no file named *{' or *'.join(SUFFIXES)} in this folder")


def _below(folder: Path) -> Iterator[Manifests]:
    failures: list[OSError] = []
    for root, folders, files in os.walk(folder, onerror=failures.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in folders:
            if Path(root, name).is_symlink():
                yield unreadable(_shown(Path(root, name)), 1, "Refused", "is a link; only real folders are read")
        for name in sorted(files):
            if name.endswith(SUFFIXES) and not name.startswith("."):
                yield _read_one(Path(root, name), follow=False)
    for failure in failures:
        yield unreadable(_shown(Path(failure.filename)), 1, "Unreadable", f"cannot be read: {failure.strerror}")


def _read_one(path: Path, *, follow: bool) -> Manifests:
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
        return read_file(_shown(path), file.read(MAX_BYTES + 1), MAX_BYTES, MAX_DOCUMENTS)


def _shown(path: Path) -> str:
    """The name as text that can be printed: names of files are bytes."""
    return os.fsencode(path).decode("utf-8", "replace")
