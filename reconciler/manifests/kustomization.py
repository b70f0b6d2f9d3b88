"""One kustomization file → what it refers to, and whether it changes what it lists. Pure."""

from __future__ import annotations

import difflib
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from reconciler.formats.strict_yaml import (
    Lines,
    YamlProblem,
    check_text,
    find,
    line_at,
    load,
    load_one,
    split_documents,
)
from reconciler.manifests.selection import KUSTOMIZATIONS, folder_of
from reconciler.model import Origin, Reason, ReasonCode

_GROUP = "kustomize.config.k8s.io"
_KINDS = ("Kustomization", "Component")
# Files and folders with objects; files with instructions of kustomize's own.
_LISTS, _CONFIGS = ("resources", "bases"), ("generators", "transformers", "validators")
# With these alone what is built is what is listed.
_PLAIN = frozenset({"apiVersion", "kind", "metadata", *_LISTS, "buildMetadata", "sortOptions", "generatorOptions"})
_HELM = ("helmCharts", "helmChartInflationGenerator", "helmGlobals")
# kustomize takes these in any case, as Go's JSON does; what is looked at here must be what it reads.
_SPELLINGS = {key.casefold(): key for key in (*_LISTS, "components", *_CONFIGS, *_HELM)}
# Text below these is never the name of a file.
_NO_PATHS = frozenset(
    {
        *("literals", "metadata", "options", "generatorOptions", "images", "labels", "commonLabels"),
        *("commonAnnotations", "annotations", "patch", "target", "targets", "sourceValue", "vars", "namespace"),
    }
)
_REMOTE = re.compile(r"[a-z][a-z0-9+.-]*://|git::|git@|github\.com[/:]", re.IGNORECASE)
# Flux's group, which has a kind Kustomization too, is less like it.
_NEAR = 0.8
_HEADS = {"kind": "Kustomization, or Component", "apiVersion": f"{_GROUP}/v1beta1, or v1alpha1 for a Component"}
_LONGEST = 1024
_MOST_TEXTS = 5_000


@dataclass(frozen=True, slots=True)
class ListedPath:
    """A file or folder as it is written, and where."""

    text: str
    origin: Origin


@dataclass(frozen=True, slots=True)
class Kustomization:
    """What one file says. `texts` may all name files; `change` is the first field that changes what is listed.

    With a `fault` it cannot be built, whatever else it says.
    """

    file: str
    is_component: bool = False
    listed: tuple[ListedPath, ...] = ()
    components: tuple[ListedPath, ...] = ()
    configs: tuple[ListedPath, ...] = ()
    texts: tuple[str, ...] = ()
    change: Reason | None = None
    fault: Reason | None = None
    fields: tuple[tuple[str, int], ...] = ()

    @property
    def folder(self) -> str:
        return folder_of(self.file)

    def uses(self, path: str) -> bool:
        """Is a file, named from this folder, the kustomization itself or instructions of it, and no object?"""
        named, listed = ({resolve("", each) for each in texts} for texts in (self.texts, [e.text for e in self.listed]))
        return path == self.file or path in named - listed

    def line_of(self, field: str) -> int:
        return dict(self.fields).get(field, 1)


def resolve(folder: str, text: str) -> str | None:
    """A name in a kustomization of this folder as the repository calls it; None: it leads out, or is no name."""
    if len(text) > _LONGEST or not text.isprintable() or text.startswith("/"):
        return None
    path = posixpath.normpath(posixpath.join(folder, text))
    if path == ".." or path.startswith("../") or ".git" in path.split("/"):
        return None
    return "" if path == "." else path


@lru_cache(maxsize=512)
def read_kustomization(file: str, data: bytes) -> Kustomization | None:
    """None where the file is something else, whatever it is called."""
    try:
        tree = load_one(data)
    except YamlProblem as problem:
        return Kustomization(
            file,
            fault=Reason(
                ReasonCode.INVALID_KUSTOMIZATION, f"cannot be built: {problem.message}", _at(file, problem.line)
            ),
        )
    value = tree.value
    if not isinstance(value, dict):
        return Kustomization(
            file, fault=Reason(ReasonCode.INVALID_KUSTOMIZATION, "cannot be built: it is empty", _at(file, 1))
        )
    if not _is_meant(value):
        return None
    inline, broken = _inline(file, value, tree.lines)
    texts = [*_texts(file, value, tree.lines), *inline]
    return Kustomization(
        file,
        value.get("kind") == "Component",
        tuple(entry for key in _LISTS for entry in _entries(file, value, tree.lines, key)),
        tuple(_entries(file, value, tree.lines, "components")),
        tuple(entry for key in _CONFIGS for entry in _entries(file, value, tree.lines, key)),
        tuple(entry.text for entry in texts[:_MOST_TEXTS]),
        next((_changed(file, value, tree.lines, key) for key in value if key not in _PLAIN and value[key]), None),
        next(_faults(file, value, tree.lines, texts), broken),
        tuple((key, _line(value, tree.lines, (key,))) for key in value),
    )


@lru_cache(maxsize=512)
def read_instructions(file: str, data: bytes) -> tuple[tuple[str, ...], Reason | None]:
    """What a generator's or transformer's file may name, and why it cannot be followed."""
    texts: list[ListedPath] = []
    try:
        for line, chunk in split_documents(check_text(data)):
            if tree := load(chunk, line):
                texts += _texts(file, tree.value, tree.lines)
    except YamlProblem as problem:
        return (), Reason(
            ReasonCode.INVALID_KUSTOMIZATION, f"cannot be built: {problem.message}", _at(file, problem.line)
        )
    return tuple(each.text for each in texts), next(map(remote, filter(_is_remote, texts)), None)


def _is_meant(value: dict[str, Any]) -> bool:
    """Is it a kustomization, if only with a typing error? Were that taken for another object, its files would count."""
    kind, version = value.get("kind"), value.get("apiVersion")
    if not (isinstance(kind, str) and isinstance(version, str) and kind and version):
        return True
    group = version.rpartition("/")[0]
    is_near = difflib.SequenceMatcher(None, group, _GROUP).ratio() >= _NEAR
    return is_near or (bool(difflib.get_close_matches(kind, _KINDS, 1, 0.85)) and "." not in group)


def _head_fault(file: str, value: dict[str, Any], lines: Lines) -> Iterator[Reason]:
    """kustomize takes an object without kind and apiVersion, or with its own."""
    for key, whole in {"kind": "|".join(_KINDS), "apiVersion": rf"{re.escape(_GROUP)}/v1(alpha1|beta1)"}.items():
        declared = value.get(key)
        if declared and not (isinstance(declared, str) and re.fullmatch(whole, declared)):
            text = f"cannot be built: {key} is {str(declared)[:80]!r}; expected {_HEADS[key]}"
            yield Reason(ReasonCode.INVALID_KUSTOMIZATION, text, _at(file, _line(value, lines, (key,))))


def remote(entry: ListedPath) -> Reason:
    """Why a build never fetches: what is served must be what is in the revision."""
    text = f"cannot be built: {entry.text[:200]} is not in this repository, and nothing is fetched; copy it here"
    return Reason(ReasonCode.KUSTOMIZATION_NOT_BUILT, text, entry.origin)


def missing(entry: ListedPath) -> Reason:
    """An entry of a list that names nothing that can be read."""
    if _is_remote(entry):
        return remote(entry)
    name = " ".join(entry.text[:200].split())
    text = f"cannot be built: {name} is neither a file nor a folder with a kustomization in this repository"
    return Reason(
        ReasonCode.KUSTOMIZATION_NOT_BUILT, f"{text}; correct its name (links are not followed)", entry.origin
    )


def _faults(file: str, value: dict[str, Any], lines: Lines, texts: list[ListedPath]) -> Iterator[Reason]:
    yield from _head_fault(file, value, lines)
    for key in value:
        if (right := _SPELLINGS.get(key.casefold(), key)) != key:
            text = f"cannot be built: write {right} instead of {key}"
            yield Reason(ReasonCode.INVALID_KUSTOMIZATION, text, _at(file, _line(value, lines, (key,))))
    for key in filter(value.get, _HELM):
        text = f"cannot be built: {key} needs Helm, which is not run here; commit what `helm template` prints"
        yield Reason(ReasonCode.KUSTOMIZATION_NOT_BUILT, text, _at(file, _line(value, lines, (key,))))
    yield from map(remote, filter(_is_remote, texts))
    if len(texts) > _MOST_TEXTS:
        text = f"cannot be built: it may name {len(texts):,} files, more than {_MOST_TEXTS:,}; split it"
        yield Reason(ReasonCode.KUSTOMIZATION_NOT_BUILT, text, _at(file, 1))
    for key in ("resources", "bases", "components", *_CONFIGS):
        entries = value.get(key)
        if entries and not (isinstance(entries, list) and all(isinstance(each, str) for each in entries)):
            yield Reason(
                ReasonCode.INVALID_KUSTOMIZATION,
                f"cannot be built: {key} must be a list of names",
                _at(file, _line(value, lines, (key,))),
            )


def _is_remote(entry: ListedPath) -> bool:
    return bool(_REMOTE.match(entry.text))


def _changed(file: str, value: dict[str, Any], lines: Lines, key: str) -> Reason:
    text = f"cannot be built: {key[:80]} changes what it lists"
    return Reason(ReasonCode.KUSTOMIZATION_NOT_BUILT, text, _at(file, _line(value, lines, (key,))))


def _entries(file: str, value: dict[str, Any], lines: Lines, key: str) -> Iterator[ListedPath]:
    entries = value.get(key)
    for index, each in enumerate(entries if isinstance(entries, list) else ()):
        # What has several lines is no name but the instructions themselves, where these may stand.
        if isinstance(each, str) and not (key in _CONFIGS and "\n" in each):
            yield ListedPath(each, _at(file, _line(value, lines, (key, index))))


def _inline(file: str, value: dict[str, Any], lines: Lines) -> tuple[list[ListedPath], Reason | None]:
    """What instructions that stand in the kustomization itself may name, and why they cannot be followed."""
    texts: list[ListedPath] = []
    for key in _CONFIGS:
        entries = value.get(key)
        for index, each in enumerate(entries if isinstance(entries, list) else ()):
            if isinstance(each, str) and "\n" in each:
                at = _at(file, _line(value, lines, (key, index)))
                named, fault = read_instructions(file, each.encode())
                if fault:
                    return texts, replace(fault, origin=at)
                texts += [ListedPath(text, at) for text in named]
    return texts, None


def _texts(file: str, value: Any, lines: Lines) -> Iterator[ListedPath]:
    """Every text that may name a file, also as `KEY=FILE`."""
    for text, line in _leaves(value, lines):
        yield ListedPath(text, _at(file, line))
        if "=" in text:
            yield ListedPath(text.partition("=")[2], _at(file, line))


def _leaves(value: Any, lines: Lines) -> Iterator[tuple[str, int]]:
    if isinstance(value, str) and value and "\n" not in value:
        yield value, line_at(lines)
    elif isinstance(value, dict | list) and isinstance(lines, tuple):
        keys = value if isinstance(value, dict) else range(len(value))
        for key, inside in zip(keys, lines[1], strict=True):
            if key not in _NO_PATHS:
                yield from _leaves(value[key], inside)


def _line(value: dict[str, Any], lines: Lines, path: tuple[str | int, ...]) -> int:
    return line_at(find(value, lines, path)[1])


def _at(file: str, line: int) -> Origin:
    return Origin(file, line)


def places(folder: str, text: str) -> tuple[str, ...]:
    """Files that a text may mean: itself, or what makes it a folder that can be built."""
    path = resolve(folder, text)
    if path is None:
        return ()
    inside = tuple(posixpath.join(path, name) for name in KUSTOMIZATIONS)
    return (path, *inside) if path else inside
