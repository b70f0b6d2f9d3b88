"""The bytes of one file → its manifests. Every document stands or falls alone."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from reconciler.manifests.host import host_problems
from reconciler.manifests.manifest import (
    KNOWN_KINDS,
    Manifest,
    Manifests,
    Unreadable,
    find,
    joined,
    line_at,
    unreadable,
)
from reconciler.manifests.strict_yaml import Lines, YamlProblem, check_text, load, split_documents
from reconciler.model import Origin, Reason

MAX_FILE_BYTES = 1 << 20
MAX_DOCUMENTS = 5_000
MAX_PROBLEMS = 20

# Kinds of KServe that we do not read; the names of some are near those of ours.
_FOREIGN = frozenset(
    {
        "ClusterLocalModel",
        "InferenceGraph",
        "LLMInferenceServiceConfig",
        "LocalModelNode",
        "LocalModelNodeGroup",
        "TrainedModel",
    }
)
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_ROUGH_KIND = re.compile(rb"^kind:[ \t]*[\"']?([A-Za-z]+)", re.MULTILINE)


class _Incomplete(Exception):
    """A document without something that every document has."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line
        self.message = message


def read_file(path: str, data: bytes, max_bytes: int = MAX_FILE_BYTES, max_documents: int = MAX_DOCUMENTS) -> Manifests:
    """The documents of one file; it never raises for bad input."""
    if len(data) > max_bytes:
        return unreadable(path, 1, "TooLarge", f"larger than {max_bytes >> 10} KiB; split it")
    try:
        text = check_text(data)
    except YamlProblem as problem:
        return unreadable(path, problem.line, problem.code, problem.message)
    parts: list[Manifests] = []
    problems = 0
    for number, (line, chunk) in enumerate(split_documents(text)):
        if number == max_documents or problems >= MAX_PROBLEMS:
            what = f"{max_documents} documents" if number == max_documents else f"{problems} errors"
            parts.append(unreadable(path, line, "TooLarge", f"{what} so far; the rest of this file is not read"))
            break
        parts.append(_read_document(path, line, chunk))
        problems += len(parts[-1].unreadable)
    return joined(parts)


def _read_document(path: str, line: int, chunk: bytes) -> Manifests:
    try:
        tree = load(chunk, line)
    except YamlProblem as problem:
        return unreadable(path, problem.line, problem.code, problem.message, _rough_kind(chunk))
    if tree is None or tree.value is None:
        return Manifests()
    warnings = tuple(_ambiguous(Origin(path, at), word, value) for at, word, value in tree.surprises)
    return joined(_read_objects(path, tree.value, tree.lines, warnings))


def _rough_kind(chunk: bytes) -> str:
    """What a broken document says it is, where that is beyond doubt."""
    kinds = {match.decode() for match in _ROUGH_KIND.findall(chunk)}
    return kinds.pop() if len(kinds) == 1 and kinds <= set(KNOWN_KINDS) else ""


def _ambiguous(origin: Origin, word: str, value: Any) -> Reason:
    shown = str(value).lower() if isinstance(value, bool) else str(value)
    return Reason("AmbiguousScalar", f"{word} without quotes means {shown}; put it in quotes if it is text", origin)


def _unnamed(warning: Reason) -> Reason:
    """The same about a Secret's value, which may not be shown."""
    return replace(warning, message="a word without quotes is not read as it is written; put it in quotes")


def _read_objects(path: str, value: Any, lines: Lines, warnings: tuple[Reason, ...]) -> Iterator[Manifests]:
    """The object of a document, or those in a `List`."""
    kind = value.get("kind") if isinstance(value, dict) else None
    if not isinstance(kind, str) or not kind.endswith("List") or "items" not in value:
        yield _read_object(path, value, lines, warnings)
        return
    items, item_lines = find(value, lines, ("items",))
    if items is not None and not isinstance(items, list):
        yield unreadable(path, line_at(item_lines), "IncompleteManifest", "items: expected a list")
        return
    for index in range(len(items or ())):
        item, inside = find(value, lines, ("items", index))
        yield from _read_objects(path, item, inside, warnings)
        warnings = ()  # Said once is enough.


def _read_object(path: str, value: Any, lines: Lines, warnings: tuple[Reason, ...]) -> Manifests:
    line = line_at(lines)
    if not isinstance(value, dict):
        return unreadable(path, line, "IncompleteManifest", f"expected a mapping, got {_shape(value)}")
    draft = Manifest("", "", None, "", value, Origin(path, line), lines)
    try:
        kind, api_version = _text(draft, ("kind",)), _text(draft, ("apiVersion",))
        problem = _kind_problem(kind, api_version)
        if problem:
            return unreadable(path, draft.line_of(("kind",)), "UnknownKind", problem)
        name, namespace = _text(draft, ("metadata", "name")), _namespace(draft)
        _check_name(draft, name)
    except _Incomplete as incomplete:
        said = value.get("kind")
        known = said if isinstance(said, str) and said in KNOWN_KINDS else ""
        return unreadable(path, incomplete.line, "IncompleteManifest", incomplete.message, known)
    if api_version not in KNOWN_KINDS.get(kind, ()):
        note = Reason("UnknownKind", f"{kind} {name} ({api_version}) is not ours to serve; ignored", draft.origin)
        return Manifests(notes=(note,))
    if kind == "Secret":
        warnings = tuple(_unnamed(warning) for warning in warnings)
    manifest = Manifest(api_version, kind, namespace, name, value, draft.origin, lines, warnings)
    if kind == "Host" and (problems := tuple(host_problems(manifest))):
        return Manifests(unreadable=tuple(Unreadable(problem, kind) for problem in problems))
    return Manifests((manifest,))


def _kind_problem(kind: str, api_version: str) -> str:
    """Why an unknown kind can't pass for some foreign object: it looks like one of ours, miswritten.

    Otherwise a typing error in `kind` would look as if the service had been deleted.
    """
    if kind.startswith("ENC["):
        return "SOPS encrypted the whole document; encrypt it with --encrypted-regex '^(data|stringData)$'"
    group = api_version.partition("/")[0]
    if kind in KNOWN_KINDS:
        versions = KNOWN_KINDS[kind]
        ours = versions[0].partition("/")[0]
        if api_version in versions or (group != ours and ours != "serving.kserve.io"):
            return ""
        return f"{kind} has apiVersion {api_version}; expected {' or '.join(versions)}"
    near = difflib.get_close_matches(kind, KNOWN_KINDS, 1, 0.85)
    if near and kind not in _FOREIGN:
        return f"there is no kind {kind}; did you mean {near[0]}?"
    return ""


def _text(manifest: Manifest, path: tuple[str, ...]) -> str:
    value: Any = manifest.data
    for step in path:
        value = value.get(step) if isinstance(value, dict) else None
    if not isinstance(value, str) or not value:
        shape = "is missing" if value is None or value == "" else f"must be text, got {_shape(value)}"
        raise _Incomplete(manifest.line_of(path), f"{'.'.join(path)} {shape}")
    return value


def _namespace(manifest: Manifest) -> str | None:
    path = ("metadata", "namespace")
    if manifest.data["metadata"].get("namespace") in (None, ""):
        return None
    namespace = _text(manifest, path)
    if not _NAMESPACE.fullmatch(namespace):
        raise _Incomplete(
            manifest.line_of(path),
            f'metadata.namespace: "{namespace[:80]}" is no namespace; use small letters, digits and -',
        )
    return namespace


def _check_name(manifest: Manifest, name: str) -> None:
    if not _NAME.fullmatch(name) or ".." in name:
        raise _Incomplete(
            manifest.line_of(("metadata", "name")),
            f'metadata.name: "{name[:80]}" is no name that Kubernetes allows; use small letters, digits, - and .',
        )


def _shape(value: Any) -> str:
    """What a value is, without showing it: it may be a secret."""
    if value is None:
        return "nothing"
    names = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list"}
    return names.get(type(value), "a mapping")
