"""The files of a tree → manifests: each by itself, or as kustomize builds them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from reconciler.manifests.built import read_built
from reconciler.manifests.kustomize import TREE, BuildFailed, Program, build, find_program
from reconciler.manifests.manifest import Manifests, Unreadable, joined
from reconciler.manifests.overlays import Overlay, lay_out
from reconciler.model import File, Origin, Reason, ReasonCode

_HOSTS = ("Host", "Cluster")
_HOST_FILES = ("host.yaml", "cluster.yaml")
_INSTALL = "install kustomize or kubectl on this host, then restart the daemon"
_MOST_BUILDS = 200
# Of all builds of one reading: a revision that is never read to its end would keep all others from being followed.
_MOST_SECONDS = 120.0
Read = Callable[[File], Manifests]


@dataclass
class Builds:
    """What overlays were built to, by their files: those of unchanged files are not built again."""

    program: Program | None = None
    known: dict[tuple[tuple[str, str], ...], Manifests] = field(default_factory=dict)
    # Files that were read as they are for one overlay, and need not be for another.
    listed: set[str] = field(default_factory=set)
    # What building took in this reading.
    seconds: float = 0.0


def assemble(
    files: Iterable[File],
    supporting: Iterable[File],
    roots: Iterable[str],
    read: Read,
    builds: Builds,
    refused: Iterable[Reason] = (),
) -> Iterator[tuple[str, Manifests]]:
    """The result of each file below the roots, in their order. Raises OSError where this machine is to blame."""
    mine = {file.path: file for file in files}
    layout = lay_out(mine, {file.path: file for file in supporting}, tuple(roots), refused)
    if layout.overlays and builds.program is None:
        builds.program = find_program()
    before, builds.known, builds.listed, builds.seconds = builds.known, {}, set(), 0.0
    for path in mine:
        if path in layout.overlays:
            yield path, _without_hosts(_of_overlay(layout.overlays[path], read, builds, before))
        elif path not in layout.covered:
            yield path, read(mine[path])
        elif path.rpartition("/")[2] in _HOST_FILES:
            yield path, _hosts_alone(read(mine[path]))
        elif why := layout.covered[path]:
            yield path, Manifests(notes=(why,))


def _of_overlay(
    overlay: Overlay, read: Read, builds: Builds, before: dict[tuple[tuple[str, str], ...], Manifests]
) -> Manifests:
    if overlay.fault:
        return _unusable(overlay.fault)
    if overlay.change is None:
        fresh = [file for file in overlay.listed if file.path not in builds.listed]
        builds.listed |= {file.path for file in fresh}
        found = joined(map(read, fresh)) if fresh else Manifests()
        return found if builds.program else replace(found, notes=(*found.notes, _listing(overlay)))
    if builds.program is None:
        why = f"{overlay.change.message}, and there is neither kustomize nor kubectl here; {_INSTALL}"
        return _unusable(replace(overlay.change, message=why))
    key = ((overlay.top.file, ""), *((file.path, file.oid) for file in overlay.files))
    if key not in builds.known:
        if len(builds.known) >= _MOST_BUILDS:
            text = f"not built: there are {_MOST_BUILDS} others that are; list folders in one kustomization"
            return _unusable(Reason(ReasonCode.KUSTOMIZATION_NOT_BUILT, text, Origin(overlay.top.file, 1)))
        if key not in before and builds.seconds > _MOST_SECONDS:
            text = f"not built: those before it took {builds.seconds:.0f} s; make them smaller, or list fewer objects"
            return _unusable(Reason(ReasonCode.KUSTOMIZATION_NOT_BUILT, text, Origin(overlay.top.file, 1)))
        builds.known[key] = before.get(key) or _timed(overlay, builds.program, builds)
    return builds.known[key]


def _timed(overlay: Overlay, program: Program, builds: Builds) -> Manifests:
    begun = time.monotonic()
    try:
        return _built(overlay, program)
    finally:
        builds.seconds += time.monotonic() - begun


def _listing(overlay: Overlay) -> Reason:
    text = "only lists files, which are read as they are: kustomize is not installed here"
    return Reason(ReasonCode.KUSTOMIZATION_LISTS_FILES, text, Origin(overlay.top.file, 1))


def _built(overlay: Overlay, program: Program) -> Manifests:
    try:
        text = build(program, overlay.top.folder, overlay.files)
    except BuildFailed as error:
        return _unusable(
            Reason(ReasonCode.KUSTOMIZATION_NOT_BUILT, f"cannot be built: {error}", Origin(overlay.top.file, 1))
        )
    return read_built(overlay, text, f"{TREE}/")


def _unusable(why: Reason) -> Manifests:
    """Nothing of it is read: it may hold services, which stay as they are."""
    return Manifests(unreadable=(Unreadable(why),))


def _without_hosts(found: Manifests) -> Manifests:
    """What speaks for a whole host stands in its own file, and is no object of a cluster."""
    return replace(found, documents=tuple(each for each in found.documents if each.kind not in _HOSTS))


def _hosts_alone(found: Manifests) -> Manifests:
    return replace(found, documents=tuple(each for each in found.documents if each.kind in _HOSTS))
