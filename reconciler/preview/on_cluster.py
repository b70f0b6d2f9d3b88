"""What a tree of manifests means, as JSON: `render` shows what would run, `validate` what a cluster would refuse.

Without a target both speak for KServe: the API server's checks, its webhooks, and what its controller calls an invalid
spec. Our own warnings are shown with that verdict and never change it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from reconciler.desired.ports import doubtful_port
from reconciler.kserve.api_server import is_checked
from reconciler.kserve.cluster_objects import DocumentIssue
from reconciler.kserve.credentials import Secret
from reconciler.kserve.issues import Issue
from reconciler.kserve.names import CONNECTIONS, KSERVE_CONTAINER
from reconciler.kserve.resolve import ClusterObjects, Resolved, resolve
from reconciler.manifests import Manifest, Manifests, find_duplicates, is_of_kserve
from reconciler.model import NO_ORIGIN, Argument, EffectiveSpec, EnvVar, Origin, Reason, ReasonCode
from reconciler.secrets.decode import is_plain
from reconciler.secrets.disclosed import disclosed as disclosed_in

Document = dict[str, Any]
Secrets = Mapping[tuple[str, str], Secret]
Locate = Callable[[Manifest, Resolved, Issue], Origin]


@dataclass(frozen=True, slots=True)
class RenderContext:
    """Where a tree is to run. `secrets` are those of a host; None: those that the tree itself holds."""

    default_namespace: str = "default"
    default_mode: str | None = None
    secrets: Secrets | None = None


CLUSTER = RenderContext()


def render(manifests: Manifests, place: RenderContext = CLUSTER) -> Document:
    """Every service as it would run, in order of namespace and name."""
    cluster = _cluster_objects(manifests, place)
    services = [
        _service(manifest, resolve(manifest.data, cluster), cluster) for manifest in _services(manifests, cluster)
    ]
    errors = [*_unreadable(manifests), *_document_errors(manifests, cluster)]
    return {"services": services, "errors": errors}


def in_service(manifest: Manifest, _: Resolved, issue: Issue) -> Origin:
    """The line of the service itself."""
    return manifest.origin_of(issue.path)


def validate(manifests: Manifests, place: RenderContext = CLUSTER, locate: Locate = in_service) -> Document:
    """KServe's verdict on the tree, each error and warning with its file and line, which `locate` finds.

    `notChecked` are documents of KServe's that we have no schema for: with any of them nothing is called valid.
    """
    cluster = _cluster_objects(manifests, place)
    errors = [*_unreadable(manifests), *_document_errors(manifests, cluster)]
    warnings = [*_general_warnings(manifests, place.default_namespace), *_documents(manifests, cluster.warnings)]
    if place.secrets is None:
        warnings += [finding_of(reason) for reason in disclosed(manifests)]
    for manifest in _services(manifests, cluster):
        resolved = resolve(manifest.data, cluster)
        reported = (
            (errors, resolved.errors),
            (warnings, (*_warnings(resolved, place), *_port_doubts(resolved))),
        )
        for findings, issues in reported:
            findings += [_located(manifest, issue, locate(manifest, resolved, issue)) for issue in issues]
    return verdict_of(in_order(errors), in_order(warnings), in_order(list(_not_checked(manifests))))


def verdict_of(errors: list[Document], warnings: list[Document], not_checked: list[Document]) -> Document:
    """The document of `validate`; `valid` is null where no error was found, but not all was looked at."""
    valid = False if errors else None if not_checked else True
    return {"valid": valid, "errors": errors, "warnings": warnings, "notChecked": not_checked}


def _not_checked(manifests: Manifests) -> Iterator[Document]:
    for each in manifests.documents:
        if is_of_kserve(each.api_version) and not is_checked(each.data):
            text = f"{each.kind} {each.name} ({each.api_version}): no schema of this kind"
            yield finding_of(Reason(ReasonCode.UNSUPPORTED_KIND, text, each.origin))
    yield from (finding_of(note) for note in manifests.notes if note.code is ReasonCode.UNSUPPORTED_KIND)


def disclosed(manifests: Manifests) -> Iterator[Reason]:
    """What anyone who can read the tree can read, but should not. Not an error to KServe."""
    for each in manifests.documents:
        yield from disclosed_in(each)
        if each.kind == "Secret" and is_plain(each.data):
            text = (
                f"the data of Secret {each.name} is not encrypted: everyone with access to git can read it, and a host "
                "refuses it; encrypt it with SOPS, or keep it in a folder outside git"
            )
            yield Reason(
                ReasonCode.PLAINTEXT_SECRET, text, each.origin_of(("data" if each.data.get("data") else "stringData",))
            )


def _cluster_objects(manifests: Manifests, place: RenderContext) -> ClusterObjects:
    return ClusterObjects.build(
        (each.data for each in manifests.documents),
        default_namespace=place.default_namespace,
        default_mode=place.default_mode,
        secrets=place.secrets,
        places=[str(each.origin) for each in manifests.documents],
        templated=manifests.templated,
    )


def _services(manifests: Manifests, cluster: ClusterObjects) -> list[Manifest]:
    """InferenceServices in order of namespace and name; of two with one name the later one counts, as with kubectl."""
    named = {
        (each.namespace or cluster.default_namespace, each.name): each for each in manifests.of_kind("InferenceService")
    }
    return [named[key] for key in sorted(named)]


def _service(manifest: Manifest, resolved: Resolved, cluster: ClusterObjects) -> Document:
    runtime = resolved.runtime
    return {
        "namespace": manifest.namespace or cluster.default_namespace,
        "name": manifest.name,
        "file": manifest.origin.file,
        "line": manifest.origin.line,
        "defaulted": resolved.defaulted,
        "runtime": runtime and {"kind": runtime.kind, "namespace": runtime.namespace or None, "name": runtime.name},
        "candidates": resolved.candidates,
        "protocol": resolved.protocol,
        "deploymentMode": resolved.deployment_mode,
        "modelName": resolved.model_name,
        "pod": resolved.pod,
        "storage": [
            {"uri": each.uri, "mountPath": each.mount_path, "readOnly": each.read_only, "env": each.env}
            for each in resolved.storage
        ],
        "url": resolved.url,
        "modelStatus": resolved.model_status,
        "errors": [_plain(issue) for issue in (*resolved.errors, *resolved.cluster_errors)],
        "warnings": [_plain(issue) for issue in resolved.warnings],
    }


def _port_doubts(resolved: Resolved) -> Iterator[Issue]:
    """An engine that listens where a cluster does not look for it."""
    for number, container in enumerate(resolved.pod.get("containers") or ()):
        if container.get("name") == KSERVE_CONTAINER:
            command = tuple(Argument(str(each), NO_ORIGIN) for each in container.get("command") or ())
            # KServe knows no lines: the place in the list stands for one.
            given = enumerate(map(str, container.get("args") or ()))
            args = tuple(Argument(text, Origin("", index)) for index, text in given)
            env = tuple(_variable(each) for each in container.get("env") or ())
            spec = EffectiveSpec(str(container.get("image") or ""), command, args, env)
            if doubt := doubtful_port(spec, container.get("ports") or ()):
                at = doubt.argument.origin if doubt.argument else NO_ORIGIN
                place = ("containers", number, "args", at.line) if at else ()
                yield Issue(ReasonCode.PORT_MISMATCH, doubt.message, ("spec", "predictor", "model"), place)


def _variable(entry: Mapping[str, Any]) -> EnvVar:
    source = "unknown" if entry.get("valueFrom") else ""
    return EnvVar(str(entry.get("name") or ""), str(entry.get("value") or ""), source)


def _plain(issue: Issue) -> Document:
    return {"reason": issue.reason, "message": issue.message}


def _warnings(resolved: Resolved, place: RenderContext) -> Iterator[Issue]:
    """With what KServe needs in addition to the documents. A host reports missing connections itself."""
    every = (*resolved.warnings, *resolved.cluster_errors)
    yield from (each for each in every if place.secrets is None or CONNECTIONS not in each.path)


def _located(manifest: Manifest, issue: Issue, origin: Origin) -> Document:
    path = issue.path if origin == manifest.origin_of(issue.path) else ()
    return _finding(origin.file, origin.line, path, issue.message)


def _finding(file: str, line: int, path: tuple[Any, ...], message: str) -> Document:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return {"file": file, "line": line, "path": text.removeprefix("."), "message": message}


def finding_of(reason: Reason) -> Document:
    """A reason as both documents list it."""
    origin = reason.origin
    return _finding(origin.file if origin else "", origin.line if origin else 1, (), reason.message)


def _unreadable(manifests: Manifests) -> Iterator[Document]:
    for reason in manifests.errors:
        yield finding_of(reason)


def _document_errors(manifests: Manifests, cluster: ClusterObjects) -> Iterator[Document]:
    return _documents(manifests, cluster.issues)


def _documents(manifests: Manifests, issues: Iterable[DocumentIssue]) -> Iterator[Document]:
    for issue in issues:
        manifest = manifests.documents[issue.index]
        yield _finding(manifest.origin.file, manifest.line_of(issue.path), issue.path, issue.message)


def _general_warnings(manifests: Manifests, default_namespace: str) -> Iterator[Document]:
    notes = (each for each in manifests.notes if each.code is not ReasonCode.UNSUPPORTED_KIND)
    for reason in (*notes, *(reason for each in manifests.documents for reason in each.warnings)):
        yield finding_of(reason)
    for group in find_duplicates(manifests.documents, default_namespace):
        for manifest in group[:-1]:
            message = f"{manifest.kind} {manifest.name} is defined again at {group[-1].origin}, which wins"
            yield _finding(manifest.origin.file, manifest.origin.line, (), message)


def in_order(findings: list[Document]) -> list[Document]:
    """By file and line."""
    return sorted(findings, key=lambda each: (each["file"], each["line"]))
