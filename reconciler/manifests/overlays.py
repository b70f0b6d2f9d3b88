"""Which folders of a tree kustomize builds, from which files, and what is therefore not read by itself. Pure.

A path that a target reads is built as a whole where it has a kustomization. Elsewhere below it those are built that no
other one uses; what stands in their folders, and in those that they use, counts only as they list it.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from reconciler.manifests.foreign import may_hide_services
from reconciler.manifests.kustomization import (
    Kustomization,
    ListedPath,
    missing,
    places,
    read_instructions,
    read_kustomization,
    resolve,
)
from reconciler.manifests.selection import folder_of, is_kustomization, is_manifest
from reconciler.model import File, Origin, Reason, ReasonCode, is_under

_MOST_ROUNDS = 20
_MOST_NAMES = 20_000
Files = Mapping[str, File]


@dataclass(frozen=True, slots=True)
class Overlay:
    """One folder that is built. `files` are all that its build may read, `listed` the objects among them in order.

    Without a `change` what is built is what is listed. With a `fault` it cannot be built.
    """

    top: Kustomization
    files: tuple[File, ...] = ()
    listed: tuple[File, ...] = ()
    folders: frozenset[str] = frozenset()
    change: Reason | None = None
    fault: Reason | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """What is built, by the kustomization's file, and what else is not read by itself, and why where that is said."""

    overlays: Mapping[str, Overlay] = field(default_factory=dict)
    covered: Mapping[str, Reason | None] = field(default_factory=dict)


def find_supporting(files: Files, look: Callable[[Collection[str]], Files]) -> dict[str, File]:
    """Files outside these that their kustomizations name, and those of the folders that these name, and so on.

    `look` finds those of some names that are there.
    """
    known, asked = dict(files), set(files)
    for _ in range(_MOST_ROUNDS):
        needed = {path for each in _kustomizations(known).values() for path in _names(each, known)} - asked
        if not needed or len(asked) - len(files) + len(needed) > _MOST_NAMES:
            break
        asked |= needed
        known |= look(sorted(needed))
    return {path: file for path, file in known.items() if path not in files}


def lay_out(files: Files, supporting: Files, roots: Iterable[str], refused: Iterable[Reason] = ()) -> Layout:
    """What is to be done with the files below the roots. A kustomization that is `refused` cannot be built."""
    lost = {folder_of(each.file): each for each in _refused_ones(refused)}
    here = {folder: each for folder, each in _kustomizations(files).items() if is_under(each.file, roots)} | lost
    if not here:
        return Layout()
    everything = {**supporting, **files}
    known = _kustomizations(everything) | lost
    closed = {folder: _close(each, known, everything) for folder, each in here.items()}
    tops = _tops(here, closed, tuple(roots))
    overlays = {here[folder].file: closed[folder] for folder in tops}
    return Layout(overlays, _covered(files, overlays, here, known))


def _kustomizations(files: Files) -> dict[str, Kustomization]:
    """By folder."""
    found: dict[str, Kustomization] = {}
    for path in sorted(path for path in files if is_kustomization(path)):
        one = read_kustomization(path, files[path].data)
        if one is None:
            continue
        if (other := found.get(one.folder)) is not None:
            text = f"cannot be built: {posixpath.basename(other.file)} is in the same folder; keep one of them"
            one = Kustomization(path, fault=Reason(ReasonCode.INVALID_KUSTOMIZATION, text, Origin(path, 1)))
        found[one.folder] = one
    return found


def _refused_ones(refused: Iterable[Reason]) -> Iterator[Kustomization]:
    for each in refused:
        if each.origin and is_kustomization(each.origin.file):
            yield Kustomization(each.origin.file, fault=each)


def _names(each: Kustomization, files: Files) -> Iterator[str]:
    """All names of files that a build may ask for."""
    texts = [*each.texts]
    for entry in each.configs:
        if config := files.get(resolve(each.folder, entry.text) or ""):
            texts += read_instructions(config.path, config.data)[0]
    for text in texts:
        yield from places(each.folder, text)


# ---------------------------------------------------------------- what a build reads


@dataclass(slots=True)
class _Closing:
    """What was met of one overlay so far."""

    known: Mapping[str, Kustomization]
    everything: Files
    files: dict[str, File] = field(default_factory=dict)
    listed: dict[str, File] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)
    changes: list[Reason] = field(default_factory=list)
    faults: list[Reason] = field(default_factory=list)

    def add(self, each: Kustomization, above: tuple[str, ...]) -> None:
        """A kustomization with all that it uses."""
        if each.folder in self.folders:
            return
        self.folders.add(each.folder)
        self._take(each.file)
        self.changes += [each.change] if each.change else []
        self.faults += [each.fault] if each.fault else []
        for path in _names(each, self.everything):
            self._take(path)
        for entry in each.configs:
            self._check_config(each, entry)
        for entry in (*each.listed, *each.components):
            self._add_entry(each, entry, (*above, each.folder))

    def _take(self, path: str) -> None:
        if path in self.everything:
            self.files[path] = self.everything[path]

    def _add_entry(self, each: Kustomization, entry: ListedPath, above: tuple[str, ...]) -> None:
        path = resolve(each.folder, entry.text)
        if path is not None and path in self.everything:
            self.listed[path] = self.everything[path]
        elif path is None or path not in self.known:
            self.faults.append(missing(entry))
        elif path in above:
            text = f"cannot be built: {entry.text[:200]} uses this folder itself; remove one of the two"
            self.faults.append(Reason(ReasonCode.KUSTOMIZATION_NOT_BUILT, text, entry.origin))
        else:
            self.add(self.known[path], above)

    def _check_config(self, each: Kustomization, entry: ListedPath) -> None:
        """Folders of instructions would have to be built first; no one could see what these name."""
        path = resolve(each.folder, entry.text)
        if path is not None and path in self.known:
            text = f"cannot be built: {entry.text[:200]} is a folder; list the files in it here"
            self.faults.append(Reason(ReasonCode.KUSTOMIZATION_NOT_BUILT, text, entry.origin))
        elif path is None or path not in self.everything:
            self.faults.append(missing(entry))
        elif fault := read_instructions(path, self.everything[path].data)[1]:
            self.faults.append(fault)


def _close(top: Kustomization, known: Mapping[str, Kustomization], everything: Files) -> Overlay:
    closing = _Closing(known, everything)
    closing.add(top, ())
    return Overlay(
        top,
        tuple(closing.files[path] for path in sorted(closing.files)),
        tuple(closing.listed.values()),
        frozenset(closing.folders),
        next(iter(closing.changes), None),
        next(iter(closing.faults), None),
    )


# ---------------------------------------------------------------- what is built


def _tops(here: Mapping[str, Kustomization], closed: Mapping[str, Overlay], roots: tuple[str, ...]) -> list[str]:
    """The folders that are built: roots with a kustomization, and below others what no other one uses or surrounds."""
    mains = [root for root in roots if root in here]
    others = [folder for folder, each in here.items() if not is_under(folder, mains) and not each.is_component]
    used = {folder for top in others for folder in closed[top].folders - {top}}
    free = [folder for folder in others if folder not in used]
    needed = mains + [folder for folder in free if not _is_inside(folder, free)]
    tops = [each for each in needed if not any(each in closed[other].folders for other in needed if other != each)]
    reached = {folder for top in tops for folder in closed[top].folders}
    # What is only used in a circle, or by something that is not built, would otherwise never be read.
    rest = [folder for folder in (*mains, *others) if folder not in reached and not _is_inside(folder, tops)]
    return list(dict.fromkeys(tops + rest))


def _is_inside(folder: str, others: Iterable[str]) -> bool:
    return any(folder != other and is_under(folder, (other,)) for other in others)


def _covered(
    files: Files, overlays: Mapping[str, Overlay], here: Mapping[str, Kustomization], known: Mapping[str, Kustomization]
) -> dict[str, Reason | None]:
    """What stands in folders that are built, or is named by what is built."""
    named = {file.path for overlay in overlays.values() for file in overlay.files}
    homes = {folder: "" for folder, each in here.items() if each.is_component}
    homes |= {folder: overlay.top.file for overlay in overlays.values() for folder in overlay.folders}
    covered: dict[str, Reason | None] = {}
    for path, file in files.items():
        home = _home(path, homes)
        if path in named or (is_kustomization(path) and folder_of(path) in known):
            covered[path] = None
        elif home is not None:
            covered[path] = _not_listed(file, homes[home])
    return covered


def _home(path: str, homes: Mapping[str, object]) -> str | None:
    """The nearest folder around a file that is built or used."""
    folder = folder_of(path)
    while folder not in homes:
        if not folder:
            return None
        folder = folder_of(folder)
    return folder


def _not_listed(file: File, by: str) -> Reason | None:
    if not is_manifest(file.path) or not may_hide_services(file.data):
        return None
    # A name seen from the file is right however the tree is called.
    name = posixpath.relpath(by, folder_of(file.path) or ".") if by else ""
    text = f"it is not listed by {name}" if by else "its folder is a Component, which no kustomization here uses"
    return Reason(ReasonCode.NOT_IN_KUSTOMIZATION, f"not read: {text}", Origin(file.path, 1))
