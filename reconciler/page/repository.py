"""The tree that is read: which files, what is in them, and what was found in each by file and line. Pure.

Nothing is read or parsed for it: files are those of the snapshot, and what is in them is what passes know already.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

from reconciler.config.values import normalize_path
from reconciler.model import (
    Desired,
    DesiredState,
    NoOrigin,
    ObjectPlan,
    Origin,
    Plan,
    Reason,
    Snapshot,
    is_under,
)
from reconciler.page.links import ForgeLinks
from reconciler.report.addresses import service_address
from reconciler.report.redact import scrub_text
from reconciler.report.status import Document

SCHEMA = "reconciler.page.repository/v1"
Kind = Literal["error", "refused", "warning", "note"]
KINDS: Sequence[Kind] = ("error", "refused", "warning", "note")
PAGE_SIZE = 200
_MOST_IN_FILE, _MOST_FINDINGS, _MOST_WHOLE = 20, 20, 200


@dataclass(frozen=True, slots=True)
class FileFinding:
    """What was found in git. `subject`: the service or object that it concerns; empty: the file. Without `file` it is
    about the target as a whole."""

    kind: Kind
    code: str
    message: str
    file: str | None
    line: int | None
    subject: str = ""


@dataclass(frozen=True, slots=True)
class ListedDocument:
    """One document of a file: `InferenceService`, `team/chat`, and its line."""

    kind: str
    name: str
    line: int


@dataclass(frozen=True, slots=True)
class TargetTree:
    """What one target reads. `used_by`: by file, the services that have values from it, though they stand elsewhere."""

    name: str
    kind: str
    revision: str
    paths: tuple[str, ...]
    files: tuple[str, ...]
    contents: Mapping[str, Sequence[ListedDocument]] = field(default_factory=dict)
    used_by: Mapping[str, Sequence[str]] = field(default_factory=dict)
    findings: Sequence[FileFinding] = ()


def target_tree(
    target: TargetTree, snapshot: Snapshot | None, desired: DesiredState | None, plan: Plan | None
) -> TargetTree:
    """`target` with what its latest pass knows. `snapshot`: the revision that the pass looked at."""
    return replace(
        target,
        files=_files(target.paths, snapshot) if snapshot else (),
        contents=_contents(desired) if desired else {},
        used_by=_used_by(desired) if desired else {},
        findings=tuple(dict.fromkeys(_findings(snapshot, desired, plan, target.paths))),
    )


def _files(paths: Sequence[str], snapshot: Snapshot) -> tuple[str, ...]:
    roots = tuple(map(normalize_path, paths))
    known = {file.path for file in snapshot.files} | {file.path for file in snapshot.supporting}
    return tuple(sorted(path for path in known if is_under(path, roots)))


def _contents(desired: DesiredState) -> dict[str, list[ListedDocument]]:
    found: dict[str, list[ListedDocument]] = {}
    for one in desired.objects:
        name = f"{one.id.namespace}/{one.id.name}" if one.id.namespace else one.id.name
        found.setdefault(one.origin.file, []).append(ListedDocument(one.id.kind, name, one.origin.line))
    for service in desired.services if not desired.objects else ():
        content = ListedDocument("InferenceService", str(service.id), service.origin.line)
        found.setdefault(service.origin.file, []).append(content)
    return {file: sorted(each, key=lambda one: one.line) for file, each in found.items()}


def _used_by(desired: DesiredState) -> dict[str, list[str]]:
    """A host's runtimes, and whatever else its services take values from."""
    found: dict[str, dict[str, None]] = {}
    for service in desired.services:
        for file in _sources(service) - {service.origin.file}:
            found.setdefault(file, {})[str(service.id)] = None
    return {file: list(each) for file, each in found.items()}


def _sources(service: Desired) -> set[str]:
    origins: list[Origin | NoOrigin | None] = [each for _, each in service.variable_origins]
    origins += [each for _, each in service.mount_origins]
    origins += [each.origin for each in (service.spec.command_line if service.spec else ())]
    return {each.file for each in (*origins, service.resources_origin) if each}


# ---------------------------------------------------------------- findings


def _findings(
    snapshot: Snapshot | None, desired: DesiredState | None, plan: Plan | None, paths: Sequence[str]
) -> Iterator[FileFinding]:
    roots = tuple(map(normalize_path, paths))
    for reason in snapshot.refused if snapshot else ():
        if reason.origin and is_under(reason.origin.file.rstrip("/"), roots):
            yield _finding("error", reason)
    if desired is not None:
        yield from _of_target(desired)
        for service in desired.services:
            yield from _of_service(service)
    if plan is not None:
        yield from _of_plan(plan)


def _of_target(desired: DesiredState) -> Iterator[FileFinding]:
    yield from (_finding("error", one) for one in desired.unreadable)
    yield from (_finding("refused", one) for one in desired.refused)
    yield from (_finding("note", one) for one in desired.notes if one not in desired.unreadable)
    for file, one in desired.skipped.items():
        yield replace(_finding("note", one), file=one.origin.file if one.origin else file)


def _of_service(service: Desired) -> Iterator[FileFinding]:
    subject = str(service.id)
    yield from (_finding("error", one, subject) for one in (*service.problems, *service.blocked))
    yield from (_finding("warning", one, subject) for one in service.warnings)
    yield from (_finding("note", one, subject) for one in service.not_here)


def _of_plan(plan: Plan) -> Iterator[FileFinding]:
    for service, verdict in plan.verdicts.items():
        subject = str(service)
        if verdict.rejected and verdict.rejected.reason.origin:
            yield _finding("error", verdict.rejected.reason, subject)
        yield from (_finding("error", one, subject) for one in verdict.blocked if one.origin)
    for name, one in plan.objects.items():
        yield from _of_object(str(name), one)


def _of_object(subject: str, one: ObjectPlan) -> Iterator[FileFinding]:
    yield from (_finding("error", reason, subject) for reason in one.reasons if reason.origin)


def _finding(kind: Kind, reason: Reason, subject: str = "") -> FileFinding:
    file, line = (reason.origin.file, reason.origin.line) if reason.origin else (None, None)
    return FileFinding(kind, reason.code, scrub_text(reason.message), file, line, subject)


# ---------------------------------------------------------------- the page


@dataclass(frozen=True, slots=True)
class TreeFilter:
    """Which files are shown: of one target, only those with findings, those whose name or content holds `text`."""

    target: str = ""
    only_findings: bool = False
    text: str = ""
    page: int = 1


@dataclass(frozen=True, slots=True)
class _File:
    target: TargetTree
    path: str
    findings: Sequence[FileFinding]


def repository_document(
    trees: Sequence[TargetTree], shown: TreeFilter, links: ForgeLinks, status: Document
) -> Document:
    """What the page of the repository shows. Files with findings come first, the worst of them before others."""
    chosen = [tree for tree in trees if shown.target in ("", tree.name)]
    files = [file for tree in chosen for file in _files_of(tree)]
    matching = [file for file in files if _matches(file, shown)]
    matching.sort(key=lambda file: (_rank(file), file.path, file.target.name))
    pages = max(1, -(-len(matching) // PAGE_SIZE))
    page = min(max(1, shown.page), pages)
    rows = matching[(page - 1) * PAGE_SIZE : page * PAGE_SIZE]
    return {
        "schema": SCHEMA,
        "revision": status["revision"]["desired"],
        "subject": status["revision"]["subject"],
        "error": status["revision"]["error"],
        "refused": status["revision"]["refused"],
        "filter": asdict(shown) | {"page": page},
        "targets": [_summary(tree) for tree in trees],
        "files": [_row(file, links) for file in rows],
        "fileCount": len(files),
        "matching": len(matching),
        "pages": pages,
    }


def _files_of(tree: TargetTree) -> Iterator[_File]:
    """Its files, and whatever else something was found in: a folder, or a file that may not be read."""
    found: dict[str, list[FileFinding]] = {}
    for one in tree.findings:
        if one.file is not None:
            found.setdefault(one.file, []).append(one)
    for path in dict.fromkeys((*tree.files, *tree.contents, *found)):
        yield _File(tree, path, sorted(found.get(path, ()), key=lambda one: (KINDS.index(one.kind), one.line or 0)))


def _rank(file: _File) -> int:
    return KINDS.index(file.findings[0].kind) if file.findings else len(KINDS)


def _matches(file: _File, shown: TreeFilter) -> bool:
    if shown.only_findings and not file.findings:
        return False
    text = shown.text.casefold()
    return not text or any(text in each.casefold() for each in _texts(file))


def _texts(file: _File) -> Iterator[str]:
    yield file.path
    for content in file.target.contents.get(file.path, ()):
        yield f"{content.kind} {content.name}"
    for finding in file.findings:
        yield f"{finding.code} {finding.message}"


def _summary(tree: TargetTree) -> Document:
    counts = {kind: sum(one.kind == kind for one in tree.findings) for kind in KINDS}
    whole = [one for one in tree.findings if one.file is None]
    return {
        "name": tree.name,
        "kind": tree.kind,
        "revision": tree.revision,
        "paths": [path or "." for path in tree.paths],
        "fileCount": len(tree.files),
        "documentCount": sum(map(len, tree.contents.values())),
        "counts": counts,
        "findings": [asdict(one) for one in whole[:_MOST_WHOLE]],
    }


def _row(file: _File, links: ForgeLinks) -> Document:
    tree = file.target
    contents, used_by = tree.contents.get(file.path, ()), tree.used_by.get(file.path, ())

    def place(line: int | None) -> str:
        return links.line(tree.revision, file.path, line)

    return {
        "target": tree.name,
        "file": file.path,
        "forge": place(None),
        "contents": [
            asdict(one) | {"forge": place(one.line), "page": _page(tree, one)} for one in contents[:_MOST_IN_FILE]
        ],
        "moreContents": max(0, len(contents) - _MOST_IN_FILE),
        "usedBy": list(used_by[:_MOST_IN_FILE]),
        "moreUsers": max(0, len(used_by) - _MOST_IN_FILE),
        "findings": [asdict(one) | {"forge": place(one.line)} for one in file.findings[:_MOST_FINDINGS]],
        "moreFindings": max(0, len(file.findings) - _MOST_FINDINGS),
    }


def _page(tree: TargetTree, content: ListedDocument) -> str:
    namespace, _, name = content.name.partition("/")
    return service_address(tree.name, namespace, name) if content.kind == "InferenceService" and name else ""
