"""The files of a tree → manifests: each by itself, or as kustomize builds them, with the lines they come from."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from reconciler.formats.strict_yaml import Lines, YamlProblem, line_at, load, load_one, split_documents
from reconciler.manifests.documents import is_json, join_surrogates, read_object, split_objects
from reconciler.manifests.kustomization import Kustomization, read_kustomization
from reconciler.manifests.kustomize import TREE, BuildFailed, Program, build, find_program, sweep
from reconciler.manifests.manifest import Manifests, Unreadable, joined, unreadable
from reconciler.manifests.overlays import Overlay, lay_out
from reconciler.model import File, Origin, Reason, ReasonCode

_NOTHING_LEFT = "nothing is left of what it lists; to remove all of it, delete the kustomization"
_ORIGIN = "config.kubernetes.io/origin"
_GENERATORS = {"ConfigMap": "configMapGenerator", "Secret": "secretGenerator"}
# Each object of a file, or item of a list, with each; beyond that those that changed have the line of the whole.
_MOST_COMPARED = 500
Placed = tuple[Any, Lines]


def read_built(overlay: Overlay, text: bytes, prefix: str) -> Manifests:
    """The objects in what was built of an overlay. `prefix` stands before the names of files in it."""
    sources = _Sources({file.path: file for file in overlay.files})
    top = overlay.top.file
    try:
        trees = [tree for line, chunk in split_documents(text) if (tree := load(chunk, line))]
    except YamlProblem as problem:
        return unreadable(top, 1, problem.code, f"what is built of it cannot be read: {problem.message}")
    objects = [tree.value for tree in trees if tree.value is not None]
    if not all(isinstance(each, dict) and each.get("kind") and each.get("apiVersion") for each in objects):
        return unreadable(top, 1, ReasonCode.KUSTOMIZATION_NOT_BUILT, "what is built of it is not all objects")
    if not objects:
        return unreadable(top, 1, ReasonCode.KUSTOMIZATION_NOT_BUILT, f"cannot be built: {_NOTHING_LEFT}")
    return joined([_read_one(overlay, each, sources, prefix) for each in objects])


def _read_one(overlay: Overlay, value: dict[str, Any], sources: _Sources, prefix: str) -> Manifests:
    says = _taken_origin(value)
    file = str(says.get("path") or says.get("configuredIn") or "").removeprefix(prefix)
    kustomization = sources.kustomization(file) if "path" not in says else None
    if kustomization is not None:
        line = kustomization.line_of(_GENERATORS.get(str(value.get("kind")), ""))
        found = read_object(file, value, _spread(value, line))
    elif (source := sources.find(file, value)) is not None:
        # In its own order, where nothing changed it: the checksum of an encrypted Secret goes over that.
        value = source[0] if source[0] == value else value
        found = read_object(file, value, _moved(value, *source))
    else:
        file = file if file in sources.files else overlay.top.file
        found = read_object(file, value, _spread(value, 1))
    documents, others = (
        tuple(replace(each, built_by=overlay.top.file) for each in part) for part in (found.documents, found.others)
    )
    return replace(found, documents=documents, others=others)


def _taken_origin(value: dict[str, Any]) -> dict[str, Any]:
    """The annotations of an object's origin, removed from it: its author did not write them."""
    metadata = value.get("metadata")
    annotations = metadata.get("annotations") if isinstance(metadata, dict) else None
    if not isinstance(metadata, dict) or not isinstance(annotations, dict):
        return {}
    text = annotations.pop(_ORIGIN, None)
    if not annotations:
        del metadata["annotations"]
    try:
        output = load_one(str(text).encode()).value
    except YamlProblem:
        return {}
    return output if isinstance(output, dict) else {}


class _Sources:
    """The files that were built from, each read once."""

    def __init__(self, files: Mapping[str, File]) -> None:
        self.files = files
        self._objects: dict[str, list[Placed]] = {}
        self._named: dict[str, dict[tuple[str, str], Placed]] = {}

    def kustomization(self, path: str) -> Kustomization | None:
        file = self.files.get(path)
        return read_kustomization(path, file.data) if file else None

    def find(self, path: str, built: dict[str, Any]) -> Placed | None:
        """The object of a file that became this one: of its kind, with the longest name that the new one holds."""
        if path not in self.files:
            return None
        if path not in self._objects:
            self._objects[path] = found = list(_objects(self.files[path].data))
            # The first of a name counts.
            self._named[path] = {(str(each[0].get("kind")), _name(each[0])): each for each in reversed(found)}
        name = _name(built)
        if (same := self._named[path].get((str(built.get("kind")), name))) is not None:
            return same
        if len(self._objects[path]) > _MOST_COMPARED:
            return None
        alike = [each for each in self._objects[path] if each[0].get("kind") == built.get("kind")]
        return max(alike, key=lambda each: (_name(each[0]) in name) * len(_name(each[0])), default=None)


def _name(value: dict[str, Any]) -> str:
    metadata = value.get("metadata")
    return str(metadata.get("name", "")) if isinstance(metadata, dict) else ""


def _objects(data: bytes) -> Iterator[Placed]:
    for line, chunk in split_documents(data.removeprefix(b"\xef\xbb\xbf")):
        try:
            texts = list(split_objects(chunk, line)) if is_json(chunk) else []
            for at, text in texts or [(line, chunk)]:
                if tree := load(join_surrogates(text) if is_json(text) else text, at):
                    yield from _flat(tree.value, tree.lines)
        except (YamlProblem, UnicodeDecodeError):
            continue


def _flat(value: Any, lines: Lines) -> Iterator[Placed]:
    """An object, or those of a `List`."""
    items = value.get("items") if isinstance(value, dict) else None
    if isinstance(items, list) and isinstance(lines, tuple):
        inside = lines[1][list(value).index("items")]
        for item, at in zip(items, inside[1] if isinstance(inside, tuple) else (), strict=False):
            yield from _flat(item, at)
    elif isinstance(value, dict):
        yield value, lines


# ---------------------------------------------------------------- lines


def _spread(value: Any, line: int) -> Lines:
    """One line for everything."""
    if not isinstance(value, dict | list):
        return line
    return line, tuple(_spread(each, line) for each in (value.values() if isinstance(value, dict) else value))


def _moved(value: Any, old: Any, lines: Lines) -> Lines:
    """The lines of what something was made of: a field that was added has that of what it was added to."""
    line = line_at(lines)
    children = lines[1] if isinstance(lines, tuple) else ()
    if isinstance(value, dict) and isinstance(old, dict):
        places = {key: index for index, key in enumerate(old)}
        return line, tuple(
            _moved(each, old[key], children[places[key]]) if key in places else _spread(each, line)
            for key, each in value.items()
        )
    if isinstance(value, list) and isinstance(old, list):
        indices = [_index_of(each, at, old) for at, each in enumerate(value)]
        return line, tuple(
            _spread(each, line) if index is None else _moved(each, old[index], children[index])
            for each, index in zip(value, indices, strict=True)
        )
    return _spread(value, line)


def _index_of(item: Any, at: int, old: list[Any]) -> int | None:
    """The item of a list that this one was: the same one, or else that of the same name."""
    if at < len(old) and old[at] == item:
        return at
    if len(old) > _MOST_COMPARED:
        return None
    if item in old:
        return old.index(item)
    named = [each.get("name") if isinstance(each, dict) else None for each in old]
    name = item.get("name") if isinstance(item, dict) else None
    return named.index(name) if name is not None and name in named else None


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
    if not builds.seconds:
        # Before the first build of a reading.
        sweep()
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
