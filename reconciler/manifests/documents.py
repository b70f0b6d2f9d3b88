"""The bytes of one file → its manifests. Every document stands or falls alone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

from reconciler.fault_isolation import caught
from reconciler.formats.strict_yaml import Budget, Lines, YamlProblem, check_text, find, line_at, load, split_documents
from reconciler.manifests.foreign import (
    advice,
    find_template,
    has_no_kind,
    hole_in,
    is_foreign,
    is_of_kserve,
    kind_of_broken,
    left_behind,
    may_be_template,
    misspelt_kind,
    unfilled,
)
from reconciler.manifests.manifest import (
    KNOWN_KINDS,
    SETTINGS,
    Manifest,
    Manifests,
    Unreadable,
    host_problems,
    host_warnings,
    joined,
    unreadable,
)
from reconciler.model import Origin, Reason, ReasonCode

MAX_OBJECTS = 500
_BLANK = re.compile(r"[ \t\r\n]*")
_OTHER_NAME = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9._:]{0,251}[A-Za-z0-9])?")
# What programs read of files, and no API server knows.
_NO_OBJECTS = ("kustomize.config.k8s.io/", "reconciler/")
_ESCAPE = re.compile(rb"\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})|\\.", re.DOTALL)


def is_json(text: bytes) -> bool:
    """Does it begin as a JSON object does?"""
    return text.lstrip(b" \t\r\n")[:1] == b"{"


def join_surrogates(text: bytes) -> bytes:
    """YAML has one escape for a character beyond 16 bits, where JSON has two. Lines stay as they are."""
    return _ESCAPE.sub(_joined, text) if b"\\u" in text else text


def split_objects(text: bytes, first_line: int) -> Iterator[tuple[int, bytes]]:
    """Objects that follow each other without a separator, as kubectl reads them; nothing where it is no such text."""
    content, at = text.decode(), 0
    found: list[tuple[int, bytes]] = []
    decoder = json.JSONDecoder()
    try:
        while len(found) <= MAX_OBJECTS and (start := _next(content, at)) < len(content):
            _, at = decoder.raw_decode(content, start)
            found.append((first_line + content.count("\n", 0, start), content[start:at].encode()))
    except (ValueError, RecursionError):
        return
    if 1 < len(found) <= MAX_OBJECTS:
        yield from found


def _next(text: str, at: int) -> int:
    """Where the next thing begins that is no blank."""
    match = _BLANK.match(text, at)
    return match.end() if match else at


def _joined(match: re.Match[bytes]) -> bytes:
    if match[1] is None:
        return match[0]
    high, low = int(match[1], 16) - 0xD800, int(match[2], 16) - 0xDC00
    return b"\\U%08X" % (0x10000 + (high << 10) + low)


MAX_FILE_BYTES = 1 << 20
MAX_DOCUMENTS = 5_000
MAX_PROBLEMS = 20
MAX_NOTES = 5
# Of one document.
MAX_WARNINGS = 20
_CHART = ": a chart is not rendered here; commit what `helm template` prints"
_HINTS = {
    "Kustomization": ": kustomize reads it from a file named kustomization.yaml only",
    "HelmChart": _CHART,
    "HelmRelease": _CHART,
}
# Where what a tool should have filled in can only be a mistake.
_RENDERED = ("InferenceService", "ServingRuntime", "ClusterServingRuntime", "LLMInferenceService")
# Codes of notes: a file without any document, and one that is no manifest.
# Of a note about a document of KServe's whose kind we neither check nor run.

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


class _Incomplete(Exception):
    """A document without something that every document has."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line
        self.message = message


def read_file(path: str, data: bytes, max_bytes: int = MAX_FILE_BYTES, max_documents: int = MAX_DOCUMENTS) -> Manifests:
    """The documents of one file; it never raises for bad input."""
    if len(data) > max_bytes:
        return unreadable(path, 1, ReasonCode.FILE_TOO_LARGE, f"larger than {max_bytes >> 10} KiB; split it")
    try:
        text = check_text(data)
    except YamlProblem as problem:
        return unreadable(path, problem.line, problem.code, problem.message)
    if why := left_behind(text):
        return unreadable(path, 1, ReasonCode.UNRESOLVED_FILE, why)
    return _tidy(path, joined(_read_documents(path, text, max_documents)))


def _read_documents(path: str, text: bytes, max_documents: int) -> list[Manifests]:
    parts: list[Manifests] = []
    problems = 0
    budget = Budget(len(text))
    for number, (line, chunk) in enumerate(split_documents(text)):
        if number == max_documents or problems >= MAX_PROBLEMS:
            what = f"{max_documents} documents" if number == max_documents else f"{problems} errors"
            parts.append(
                unreadable(
                    path, line, ReasonCode.TOO_MANY_DOCUMENTS, f"{what} so far; the rest of this file is not read"
                )
            )
            break
        parts.append(_read_safely(path, line, chunk, budget))
        problems += len(parts[-1].unreadable)
    return [*parts, Manifests(expanded=budget.expanded)] if budget.expanded else parts


def _read_safely(path: str, line: int, chunk: bytes, budget: Budget) -> Manifests:
    """A document that we fail on is one that cannot be read, and no more than that."""
    try:
        return _read_document(path, line, chunk, budget)
    except MemoryError:
        raise
    except Exception as error:
        return _failed(Origin(path, line), error)


def _tidy(path: str, found: Manifests) -> Manifests:
    """An empty file is noted; of documents of unsupported kinds the first few are named."""
    if not (found.documents or found.unreadable or found.notes):
        return Manifests(
            notes=(
                Reason(ReasonCode.EMPTY_FILE, "holds no document: it is empty, or has comments only", Origin(path, 1)),
            )
        )
    if len(found.notes) <= MAX_NOTES:
        return found
    # Documents that are not checked must not be crowded out by unrelated ones.
    notes = sorted(found.notes, key=lambda each: each.code is not ReasonCode.UNSUPPORTED_KIND)
    last = notes[MAX_NOTES - 1]
    rest = replace(last, message=f"this and {len(notes) - MAX_NOTES} more documents of unsupported kinds; ignored")
    return replace(found, notes=(*notes[: MAX_NOTES - 1], rest))


def _read_document(path: str, line: int, chunk: bytes, budget: Budget) -> Manifests:
    text = join_surrogates(chunk) if is_json(chunk) else chunk
    try:
        tree = load(text, line, budget)
    except YamlProblem as problem:
        if is_json(chunk) and (objects := list(split_objects(chunk, line))):
            return joined(_read_document(path, at, text, budget) for at, text in objects)
        return _broken(path, line, problem, chunk)
    if tree is None or tree.value is None:
        return Manifests()
    warnings = tuple(_ambiguous(Origin(path, at), word, value) for at, word, value in tree.surprises[:MAX_WARNINGS])
    if (rest := len(tree.surprises) - MAX_WARNINGS) > 0:
        warnings = (
            *warnings,
            replace(warnings[-1], message=f"and {rest:,} more unquoted values that are not read as text"),
        )
    found = joined(_read_objects(path, tree.value, tree.lines, warnings))
    if isinstance(tree.value, dict) and "sops" in tree.value:
        found = _with_text(found, tree.value, text)
    return _with_unfilled(found) if may_be_template(chunk) else found


def _with_text(found: Manifests, value: Any, text: bytes) -> Manifests:
    documents = (replace(each, text=text) if each.data is value else each for each in found.documents)
    return replace(found, documents=tuple(documents))


def read_object(path: str, value: Any, lines: Lines) -> Manifests:
    """A document that was parsed already, or the objects in it. Never raises for bad input."""
    try:
        return joined(_read_objects(path, value, lines, ()))
    except MemoryError:
        raise
    except Exception as error:
        return _failed(Origin(path, line_at(lines)), error)


def _failed(origin: Origin, error: Exception) -> Manifests:
    reason, bug = caught(error, "reading this document", origin)
    return Manifests(unreadable=(Unreadable(reason),), bugs=(replace(bug, subject=f"{reason.origin}: {bug.subject}"),))


def _broken(path: str, line: int, problem: YamlProblem, chunk: bytes) -> Manifests:
    """A text that cannot be parsed. It may be of a supported kind, unless it clearly is something else."""
    kind = kind_of_broken(chunk)
    down, template = find_template(chunk, path, problem.line - line)
    if template:
        problem = YamlProblem(line + down, template, ReasonCode.TEMPLATE_NOT_RENDERED)
    if kind is None or (path.endswith(".json") and has_no_kind(chunk)):
        return _noted(path, problem.line, f"cannot be parsed ({problem.message}), and names no supported kind; ignored")
    settings = SETTINGS.encode() in chunk
    return unreadable(path, problem.line, problem.code, problem.message, kind, names_settings=settings)


def _noted(path: str, line: int, message: str) -> Manifests:
    return Manifests(notes=(Reason(ReasonCode.NOT_A_MANIFEST, message, Origin(path, line)),))


def _ambiguous(origin: Origin, word: str, value: Any) -> Reason:
    shown = str(value).lower() if isinstance(value, bool) else str(value)
    return Reason(
        ReasonCode.AMBIGUOUS_SCALAR, f"{word} without quotes means {shown}; put it in quotes if it is text", origin
    )


def _unnamed(warning: Reason) -> Reason:
    """The same about a Secret's value, which may not be shown."""
    return replace(warning, message="an unquoted value is not read as text; put it in quotes")


def _read_objects(
    path: str, value: Any, lines: Lines, warnings: tuple[Reason, ...], listed: bool = False
) -> Iterator[Manifests]:
    """The object of a document, or those in a `List`."""
    kind = value.get("kind") if isinstance(value, dict) else None
    if not isinstance(kind, str) or not kind.endswith("List") or not isinstance(value.get("items"), list | None):
        yield _read_object(path, value, lines, warnings, listed)
        return
    items, _ = find(value, lines, ("items",))
    for index in range(len(items) if isinstance(items, list) else 0):
        item, inside = find(value, lines, ("items", index))
        yield from _read_objects(path, item, inside, warnings, listed=True)
        warnings = ()  # Said once is enough.


def _read_object(path: str, value: Any, lines: Lines, warnings: tuple[Reason, ...], listed: bool) -> Manifests:
    line = line_at(lines)
    if not listed and not _has_both(value) and is_foreign(value):
        return _noted(path, line, "is not a manifest: it has no apiVersion and kind; ignored")
    if not isinstance(value, dict):
        return unreadable(path, line, ReasonCode.INCOMPLETE_MANIFEST, f"expected a mapping, got {_shape(value)}")
    draft = Manifest("", "", None, "", value, Origin(path, line), lines)
    try:
        kind, api_version = _text(draft, ("kind",)), _text(draft, ("apiVersion",))
        if kind == "List" and api_version == "v1":
            return unreadable(path, draft.line_of(("items",)), ReasonCode.INCOMPLETE_MANIFEST, "items: expected a list")
        meant, problem = misspelt_kind(kind, api_version)
        if problem:
            at, settings = draft.line_of(("kind",)), _names_settings(value)
            return unreadable(path, at, ReasonCode.UNKNOWN_KIND, problem, meant, names_settings=settings)
        if api_version not in KNOWN_KINDS.get(kind, ()):
            return _not_served(draft, kind, api_version)
        name, namespace = _text(draft, ("metadata", "name")), _namespace(draft)
        _check_name(draft, name)
    except _Incomplete as incomplete:
        named = value.get("kind")
        known = named if isinstance(named, str) and named in KNOWN_KINDS else ""
        text, settings = incomplete.message, _names_settings(value)
        return unreadable(path, incomplete.line, ReasonCode.INCOMPLETE_MANIFEST, text, known, names_settings=settings)
    if kind == "Secret":
        warnings = tuple(_unnamed(warning) for warning in warnings)
    manifest = Manifest(api_version, kind, namespace, name, value, draft.origin, lines, warnings)
    if kind == "Host" and (problems := tuple(host_problems(manifest))):
        return Manifests(unreadable=tuple(Unreadable(problem, kind) for problem in problems))
    if kind == "Host":
        manifest = replace(manifest, warnings=(*warnings, *host_warnings(manifest)))
    return Manifests((manifest,))


def _names_settings(value: dict[str, Any]) -> bool:
    metadata = value.get("metadata")
    return isinstance(metadata, dict) and SETTINGS in str(metadata.get("name"))


def _with_unfilled(found: Manifests) -> Manifests:
    documents = (
        replace(each, warnings=(*each.warnings, *_not_filled_in(each))) if each.kind in _RENDERED else each
        for each in found.documents
    )
    return replace(found, documents=tuple(documents))


def _not_filled_in(draft: Manifest) -> Iterator[Reason]:
    for fields, note in unfilled(draft.data, draft.origin.file):
        where = ".".join(map(str, fields))
        yield Reason(ReasonCode.TEMPLATE_NOT_RENDERED, f"{where}: {note}", draft.origin_of(fields))


def _has_both(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(key), str) for key in ("kind", "apiVersion"))


def _not_served(draft: Manifest, kind: str, api_version: str) -> Manifests:
    """A kind of others. Its fields are not looked at: a Kustomization has no name, and needs none."""
    metadata = draft.data.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if kind == "Template" and isinstance(draft.data.get("objects"), list):
        return _template(draft, api_version, str(name))
    what = f"{kind[:80]} {name[:80]}" if isinstance(name, str) else kind[:80]
    note = Reason(
        ReasonCode.UNKNOWN_KIND,
        f"{what} ({api_version[:80]}) is not supported; ignored{_HINTS.get(kind, '')}",
        draft.origin,
    )
    if is_of_kserve(api_version):
        text = f"{what} ({api_version[:80]}): this kind of KServe is not supported; neither checked nor served"
        note = Reason(ReasonCode.UNSUPPORTED_KIND, text, draft.origin)
    return Manifests(notes=(note,), others=tuple(_other(draft, kind, api_version, name)))


def _other(draft: Manifest, kind: str, api_version: str, name: object) -> Iterator[Manifest]:
    """An object that a cluster may know. Its name's form is the API server's to judge, but it may be part of a URL."""
    if not isinstance(name, str) or not _OTHER_NAME.fullmatch(name) or api_version.startswith(_NO_OBJECTS):
        return
    with suppress(_Incomplete):
        yield replace(draft, api_version=api_version, kind=kind, name=name, namespace=_namespace(draft))


def _template(draft: Manifest, api_version: str, name: str) -> Manifests:
    """OpenShift's Template: its objects do not exist until it is processed, and a cluster makes none of them."""
    path, holder = draft.origin.file, f"Template {name[:80]}"
    objects = [
        (each, str(Origin(path, draft.line_of(("objects", index)))), holder)
        for index, each in enumerate(draft.data["objects"])
        if isinstance(each, dict) and each.get("kind") in KNOWN_KINDS
    ]
    names = [f"{each['kind']} {_name_of(each)[:80]}" for each, _, _ in objects]
    held = f" and holds {', '.join(names[:MAX_NOTES])}{'…' * (len(names) > MAX_NOTES)}" if names else ""
    text = f"{holder} ({api_version[:80]}) is not rendered here{held}; {advice('OpenShift', path)}"
    return Manifests(notes=(Reason(ReasonCode.UNKNOWN_KIND, text, draft.origin),), templated=tuple(objects))


def _name_of(document: dict[str, Any]) -> str:
    metadata = document.get("metadata")
    return str(metadata.get("name", "")) if isinstance(metadata, dict) else ""


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
            f'metadata.namespace: invalid namespace "{namespace[:80]}": use lowercase letters, digits and -'
            + hole_in(namespace, manifest.origin.file),
        )
    return namespace


def _check_name(manifest: Manifest, name: str) -> None:
    if not _NAME.fullmatch(name) or ".." in name:
        raise _Incomplete(
            manifest.line_of(("metadata", "name")),
            f'metadata.name: invalid name "{name[:80]}": use lowercase letters, digits, - and .'
            + hole_in(name, manifest.origin.file),
        )


def _shape(value: Any) -> str:
    """What a value is, without showing it: it may be a secret."""
    if value is None:
        return "nothing"
    names = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list"}
    return names.get(type(value), "a mapping")
