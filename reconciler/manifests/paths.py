"""Files and folders outside git → manifests, chosen as from git. For commands that take paths: the limits are wide."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from reconciler.errors import ManifestError, Retryable
from reconciler.manifests.assembly import Builds, assemble
from reconciler.manifests.documents import MAX_FILE_BYTES, read_file
from reconciler.manifests.foreign import may_hide_services
from reconciler.manifests.kustomization import read_kustomization
from reconciler.manifests.manifest import Manifests, joined, unreadable
from reconciler.manifests.overlays import find_supporting
from reconciler.manifests.selection import (
    IGNORE_FILE,
    KUSTOMIZATIONS,
    MAX_IGNORE_BYTES,
    SUFFIXES,
    Ignore,
    is_kustomization,
    is_manifest,
    is_near_manifest,
    misnamed,
)
from reconciler.model import File, Origin, Reason, ReasonCode

MAX_FILES = 20_000
MAX_BYTES = 64 << 20
MAX_DOCUMENTS = 50_000


def read_paths(paths: Sequence[Path]) -> Manifests:
    """Files as given, and the manifests below folders. As in git, links found in a folder are refused."""
    given = [(path, list(_read_given(path))) for path in paths]
    found = [part for _, parts in given for part in parts if isinstance(part, _Found)]
    refused = [why for _, parts in given for part in parts if isinstance(part, Manifests) for why in part.errors]
    by_name = _assembled([path for path, _ in given if path.is_dir()], found, refused)
    taken = dict.fromkeys((each.key for each in found), False)
    every: list[Manifests] = []
    for part in (part for _, parts in given for part in parts):
        if isinstance(part, Manifests):
            every.append(part)
        elif not taken[part.key]:
            taken[part.key] = True
            every += by_name.get(part.key, ())
    return joined(every)


@dataclass(frozen=True, slots=True)
class _Found:
    """A file below a folder, with what is in it."""

    path: Path
    data: bytes

    @property
    def key(self) -> str:
        return os.path.abspath(self.path)


def _read_given(path: Path) -> Iterator[Manifests | _Found]:
    try:
        tree = _Tree(_top_of(path))
        if not path.is_dir():
            yield from _read_named(path, tree)
            return
    except (OSError, ValueError) as error:  # a name too long, or with a zero byte
        yield unreadable(_shown(path), 1, ReasonCode.UNREADABLE, f"cannot be read: {error}")
        return
    found = 0
    for part in _below(path, tree):
        found += isinstance(part, _Found) or bool(part.unreadable)
        if found > MAX_FILES:
            yield unreadable(
                _shown(path), 1, ReasonCode.FOLDER_TOO_LARGE, f"more than {MAX_FILES} files; the rest is not read"
            )
            return
        yield part
    if not found:
        yield unreadable(
            _shown(path), 1, ReasonCode.NO_FILES, f"no file named *{' or *'.join(SUFFIXES)} in this folder"
        )


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
            yield unreadable(error.file, error.line, ReasonCode.INVALID_IGNORE_FILE, error.message)


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
        data = _content(path, MAX_BYTES + 1, follow=True)
        yield data if isinstance(data, Manifests) else _patch_of(path, tree) or _read_data(path, data)


def _patch_of(path: Path, tree: _Tree) -> Manifests | None:
    """What is said of a file that is no object but instructions: those of a kustomization in its folder, or above."""
    for folder in (Path(os.path.abspath(path)).parent, *reversed(list(_above(path.parent, tree)))):
        for name in KUSTOMIZATIONS:
            data = _content(folder / name, MAX_FILE_BYTES, follow=False) if (folder / name).is_file() else None
            known = read_kustomization(name, data) if isinstance(data, bytes) else None
            if known and known.uses(_name(Path(os.path.abspath(path)), folder)):
                text = f"is part of {_shown(folder / name)}, not an object by itself; validate its folder instead"
                return Manifests(notes=(Reason(ReasonCode.PART_OF_KUSTOMIZATION, text, Origin(_shown(path), 1)),))
    return None


def _below(folder: Path, tree: _Tree) -> Iterator[Manifests | _Found]:
    for above in _above(folder, tree):
        yield from tree.read_ignore(above)
    failures: list[OSError] = []
    for root, folders, files in os.walk(folder, onerror=failures.append):
        here = Path(root)
        yield from tree.read_ignore(here)
        folders[:] = sorted(name for name in folders if _counts(here / name, tree))
        for name in list(folders):
            if (here / name).is_symlink():
                yield unreadable(_shown(here / name), 1, ReasonCode.SYMLINK, "is a link; only real folders are read")
            elif os.path.lexists(here / name / ".git"):
                folders.remove(name)
                yield unreadable(_shown(here / name), 1, ReasonCode.SUBMODULE, "is a submodule; put its files here")
        for name in sorted(files):
            if _counts(here / name, tree):
                yield from _read_found(here / name, tree)
    for failure in failures:
        yield unreadable(
            _shown(Path(failure.filename)), 1, ReasonCode.UNREADABLE, f"cannot be read: {failure.strerror}"
        )


def _counts(path: Path, tree: _Tree) -> bool:
    return not path.name.startswith(".") and tree.why_ignored(path) is None


def _read_found(path: Path, tree: _Tree) -> Iterator[Manifests | _Found]:
    if is_manifest(path.name):
        data = _content(path, MAX_BYTES + 1, follow=False)
        yield data if isinstance(data, Manifests) else _Found(path, data)
    elif is_near_manifest(path.name) and not path.is_symlink():
        data = _content(path, MAX_FILE_BYTES, follow=False)
        if isinstance(data, bytes) and may_hide_services(data) and b"\0" not in data:
            yield Manifests(notes=(misnamed(_shown(path)),))
    elif path.is_symlink() and not _leads_to_file(path, tree):
        yield unreadable(
            _shown(path), 1, ReasonCode.SYMLINK, "is a link that may point to a folder; only real folders are read"
        )


def _leads_to_file(link: Path, tree: _Tree) -> bool:
    try:
        end = link.resolve(strict=True)
    except (OSError, RuntimeError):
        return False
    return end.is_file() and end.is_relative_to(tree.top.resolve())


def _read_data(path: Path, data: bytes) -> Manifests:
    found = read_file(_shown(path), data, MAX_BYTES, MAX_DOCUMENTS)
    if len(data) > MAX_FILE_BYTES and not found.unreadable:
        limit = f"source.max_file_bytes, {MAX_FILE_BYTES:,} unless set"
        text = f"has {len(data):,} bytes: a daemon refuses files above {limit}"
        return joined([Manifests(notes=(Reason(ReasonCode.FILE_TOO_LARGE, text, Origin(_shown(path), 1)),)), found])
    return found


def _content(path: Path, most: int, *, follow: bool) -> bytes | Manifests:
    """What is in a file, or why it cannot be read."""
    try:
        # Nothing that is not a regular file is ever opened for real: reading a pipe would wait forever.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW))
    except OSError as error:
        if not follow and path.is_symlink():
            return unreadable(_shown(path), 1, ReasonCode.SYMLINK, "is a link; only real files are read")
        return unreadable(_shown(path), 1, ReasonCode.UNREADABLE, f"cannot be read: {error.strerror}")
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            return unreadable(_shown(path), 1, ReasonCode.NOT_A_REGULAR_FILE, "is not a regular file")
        return file.read(most)


def _shown(path: Path) -> str:
    """The name as text that can be printed: names of files are bytes."""
    return os.fsencode(path).decode("utf-8", "replace")


# ---------------------------------------------------------------- kustomize


def _assembled(
    folders: Sequence[Path], found: Sequence[_Found], refused: Sequence[Reason]
) -> dict[str, list[Manifests]]:
    """What the files say, by themselves or as kustomize builds them; each file is called as it was found."""
    lost = [why for why in refused if why.origin and is_kustomization(why.origin.file)]
    if not lost and not any(is_kustomization(each.path.name) for each in found):
        return {each.key: [_read_data(each.path, each.data)] for each in found}
    tops = [_top_of(folder) for folder in folders]
    # Outside git a folder may use any other one next to it.
    base = Path(os.path.commonpath(tops)) if all((top / ".git").exists() for top in tops) else Path("/")
    paths = {_name(each.path, base): each.path for each in found}
    files = {name: File(name, "", each.data) for each in found if (name := _name(each.path, base))}

    def look(names: Collection[str]) -> dict[str, File]:
        data = {name: _content(base / name, MAX_BYTES, follow=False) for name in names if (base / name).is_file()}
        return {name: File(name, "", each) for name, each in data.items() if isinstance(each, bytes)}

    def show(name: str) -> str:
        beside = base / name if folders[0].is_absolute() else Path(os.path.relpath(base / name))
        return _shown(paths.get(name, beside))

    def read(file: File) -> Manifests:
        return _read_data(Path(show(file.path)), file.data)

    roots = [_name(folder, base) for folder in folders]
    supporting = find_supporting(files, look)
    shown = {name: show(name) for name in (*files, *supporting)}
    by_name = dict[str, list[Manifests]]()
    refused = [_as_named(each, base) for each in lost]
    try:
        for name, part in assemble(files.values(), supporting.values(), roots, read, Builds(), refused):
            by_name.setdefault(os.path.abspath(base / name), []).append(_renamed(part, shown))
    except OSError as error:
        raise Retryable(f"kustomizations cannot be built on this machine now: {error}; try again") from None
    return by_name


def _as_named(refused: Reason, base: Path) -> Reason:
    origin = refused.origin
    return replace(refused, origin=replace(origin, file=_name(Path(origin.file), base))) if origin else refused


def _name(path: Path, base: Path) -> str:
    name = _shown(Path(os.path.relpath(path, base)))
    return "" if name == "." else name


def _renamed(found: Manifests, shown: Mapping[str, str]) -> Manifests:
    """With file names as given on the command line, not as the repository calls them."""

    def moved(origin: Origin) -> Origin:
        return replace(origin, file=shown.get(origin.file, origin.file))

    def told(reason: Reason) -> Reason:
        return replace(reason, origin=moved(reason.origin)) if reason.origin else reason

    return replace(
        found,
        documents=tuple(replace(each, origin=moved(each.origin)) for each in found.documents),
        others=tuple(replace(each, origin=moved(each.origin)) for each in found.others),
        unreadable=tuple(replace(each, reason=told(each.reason)) for each in found.unreadable),
        notes=tuple(map(told, found.notes)),
    )
