"""What the services of one tree share, and what must not be concluded from what cannot be seen. Pure.

A Secret is checked where it is read. A service elsewhere runs, but gets none of them (`keyring`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from reconciler.config.settings import HostSettings
from reconciler.desired.limits import Size
from reconciler.desired.refused import RefusedDocuments, UnreadableKinds, find_refused, key_of, unreadable_kinds
from reconciler.desired.secrets import as_kserve_sees
from reconciler.desired.serving_options import node_of
from reconciler.kserve.names import RUNTIME_KINDS
from reconciler.kserve.resolve import ClusterObjects
from reconciler.kserve.scheduling import Node
from reconciler.manifests import CLUSTER_SCOPED, IGNORE_FILE, SUFFIXES, Manifest, Manifests, Templated, find_duplicates
from reconciler.model import Desired, Origin, Reason, ReasonCode, Snapshot
from reconciler.secrets import SecretStore

HOST_FILE = "host.yaml"


def unreadable_places(manifests: Manifests, snapshot: Snapshot) -> Iterator[Reason]:
    """Files, and folders with a `/` at the end, whose services are kept as they are."""
    for reason in (each.reason for each in manifests.unreadable if each.may_hide_services):
        yield reason
        if reason.origin and not reason.origin.file.endswith(SUFFIXES):
            # A link or a submodule may stand where a folder was, and an ignore file may close its own.
            folder = reason.origin.file.removesuffix(f"/{IGNORE_FILE}")
            yield Reason(reason.code, reason.message, Origin(f"{folder}/", 1))
    yield from missing_places(snapshot, "what came from there is kept")


def faults_without_services(manifests: Manifests) -> Iterator[Reason]:
    """What cannot be read, but clearly is not a service: nothing has to be kept for it."""
    yield from (each.reason for each in manifests.unreadable if not each.may_hide_services)


def skipped_files(manifests: Manifests, snapshot: Snapshot) -> dict[str, Reason]:
    """Files in git that hold no supported document, and why."""
    heard = {each.origin.file for each in manifests.documents}
    heard |= {reason.origin.file for reason in manifests.errors if reason.origin}
    hollow = {note.origin.file: note for note in reversed(manifests.notes) if note.origin}
    return {file: note for file, note in hollow.items() if file not in heard} | dict(snapshot.skipped)


def possible_runtimes(manifests: Manifests, snapshot: Snapshot) -> Iterator[Reason]:
    """What may hold a runtime that we cannot see: then another one must not be taken in its place."""
    for each in manifests.unreadable:
        if each.kind in ("", *RUNTIME_KINDS):
            yield each.reason
    yield from missing_places(snapshot, "runtimes may be among what is missing")


def missing_places(snapshot: Snapshot, so_what: str) -> Iterator[Reason]:
    """The folders that the config names and git does not have."""
    for path in snapshot.missing:
        yield Reason(ReasonCode.PATH_NOT_FOUND, f"{path}/ is missing from git; {so_what}", Origin(f"{path}/", 1))


def own_file(target: HostSettings) -> str:
    """The file that shows that a target's folder is really there."""
    return "/".join(filter(None, (target.own_path, HOST_FILE)))


def is_prunable(manifests: Manifests, target: HostSettings, snapshot: Snapshot) -> bool:
    """Empty is not missing: only a folder that still shows its own file may delete services by not naming them."""
    if target.own_path in snapshot.missing:
        return False
    return bool(own_hosts(manifests, target))


def not_prunable(file: str, kind: str, target: str) -> Reason:
    """Why nothing of a target is deleted: its own file does not show that its folder is really there."""
    text = f"{file} is missing or holds no {kind} document: nothing is pruned on {target}; restore it"
    return Reason(ReasonCode.NOT_PRUNABLE, text, Origin(file, 1))


def own_hosts(manifests: Manifests, target: HostSettings) -> list[Manifest]:
    """The Host documents in a target's own file: one, where all is well."""
    return [each for each in manifests.of_kind("Host") if each.origin.file == own_file(target)]


def find_host(manifests: Manifests, target: HostSettings, snapshot: Snapshot) -> Manifest | None:
    """The one document that describes the whole host; None if it is missing or ambiguous."""
    if target.own_path in snapshot.missing:
        return None
    file = own_file(target)
    if any(reason.origin and reason.origin.file == file for reason in manifests.errors):
        return None
    hosts = own_hosts(manifests, target)
    return hosts[0] if len(hosts) == 1 else None


def doubled_hosts(manifests: Manifests, target: HostSettings) -> Iterator[Reason]:
    """Two documents about one host may contradict each other: neither is followed."""
    hosts = own_hosts(manifests, target)
    for each in hosts[1:]:
        text = f"a second Host document; the first is in line {hosts[0].origin.line}; keep one"
        yield Reason(ReasonCode.DUPLICATE_HOST, text, each.origin)


# A host's replicas are like the pods of a Deployment, so KServe's rules for that mode hold.
HOST_MODE = "Standard"
SERVICE = "InferenceService"

# Their volumes are on a cluster's nodes: a host fetches the model itself.
_CACHES = ("LocalModelCache", "LocalModelNamespaceCache")


@dataclass(frozen=True, slots=True)
class DesiredContext:
    """Everything of one tree that a service's outcome depends on, except its own document."""

    target: HostSettings
    cluster: ClusterObjects
    secrets: SecretStore
    runtimes: dict[tuple[str, str, str], Manifest]
    config_maps: dict[tuple[str, str], dict[str, Any]]
    binary_data: dict[tuple[str, str], dict[str, Any]]
    uncertain: tuple[Reason, ...]
    refused: RefusedDocuments
    unreadable: UnreadableKinds
    node: Node


@dataclass(slots=True)
class DesiredCache:
    """Remembers the outcome of every service while nothing it depends on changes. One for each target."""

    key: tuple[Any, ...] = ()
    context: DesiredContext | None = None
    services: dict[Manifest, Desired] = field(default_factory=dict)
    sizes: dict[Manifest, Size] = field(default_factory=dict)
    tracebacks: list[str] = field(default_factory=list)
    """Exceptions raised while describing services, since they were last taken: for the log."""


def context_of(
    manifests: Manifests, target: HostSettings, snapshot: Snapshot, cache: DesiredCache, secrets: SecretStore
) -> DesiredContext:
    """The previous context if nothing in it changed; else a new one, and the cache is emptied."""
    others = tuple(each for each in manifests.documents if each.kind != SERVICE)
    uncertain = tuple(possible_runtimes(manifests, snapshot))
    unreadable = unreadable_kinds(manifests.unreadable)
    key = (target, uncertain, others, secrets, unreadable, manifests.templated)
    if cache.context is None or cache.key != key:
        cache.key, cache.context, cache.services, cache.sizes = key, None, {}, {}
        context = _new_context(others, target, uncertain, secrets, manifests.templated)
        cache.context = replace(context, unreadable=unreadable)
    return cache.context


def _new_context(
    others: tuple[Manifest, ...],
    target: HostSettings,
    uncertain: tuple[Reason, ...],
    secrets: SecretStore,
    templated: tuple[Templated, ...],
) -> DesiredContext:
    home = target.default_namespace
    doubles = find_duplicates(others, home)
    hidden = {manifest for group in doubles for manifest in group[1:]}
    single = [each for each in others if each not in hidden]
    judged = [each for each in single if each.kind not in _CACHES]
    cluster = ClusterObjects.build(
        [each.data for each in judged],
        default_namespace=home,
        default_mode=HOST_MODE,
        secrets=as_kserve_sees(secrets),
        places=[str(each.origin) for each in judged],
        templated=templated,
    )
    config_maps = {(each.namespace or home, each.name): each.data for each in single if each.kind == "ConfigMap"}
    return DesiredContext(
        target=target,
        cluster=cluster,
        secrets=secrets,
        runtimes={key_of(each, home): each for each in single if each.kind in RUNTIME_KINDS},
        config_maps={key: _mapping(data, "data") for key, data in config_maps.items()},
        binary_data={key: found for key, data in config_maps.items() if (found := _mapping(data, "binaryData"))},
        uncertain=uncertain,
        refused=find_refused(
            cluster, judged, (each for each in others if each in hidden or each.kind in _CACHES), doubles
        ),
        unreadable={},
        node=node_of(target),
    )


def _mapping(document: dict[str, Any], key: str) -> dict[str, Any]:
    found = document.get(key)
    return found if isinstance(found, dict) else {}


def drop_misplaced(manifests: Manifests, target: HostSettings) -> tuple[Manifests, tuple[Reason, ...]]:
    """The Secrets that apply here, and the reasons why others do not."""
    if not target.secrets.folders:
        return manifests, ()
    at_home = {_key(each, target) for each in manifests.of_kind(SERVICE) if not _owners(each, target)}
    misplaced = {
        each: owners
        for each in manifests.documents
        if (owners := _owners(each, target)) and (each.kind != SERVICE or _key(each, target) in at_home)
    }
    kept = tuple(each for each in manifests.documents if each not in misplaced)
    return replace(manifests, documents=kept), tuple(_reason(*each, target) for each in misplaced.items())


def _owners(document: Manifest, target: HostSettings) -> tuple[str, ...]:
    """The folders that it should stand in; none where it may stand where it does."""
    namespace = _namespace(document, target)
    if document.kind in CLUSTER_SCOPED or document.kind in ("Host", "Secret"):
        return ()
    place = target.secrets.folder_of(document.place)
    if place is not None and namespace in place.namespaces:
        return ()
    return tuple(each.path for each in target.secrets.folders if namespace in each.namespaces)


def _key(document: Manifest, target: HostSettings) -> tuple[str, str]:
    return _namespace(document, target), document.name


def _namespace(document: Manifest, target: HostSettings) -> str:
    return document.namespace or target.default_namespace


def _reason(document: Manifest, owners: Iterable[str], target: HostSettings) -> Reason:
    what = f"{document.kind} {document.name} of namespace {_namespace(document, target)}"
    text = (
        f"{what} is used only in {', '.join(owners)}, according to targets[].secrets.folders of {target.name}: "
        "services do not get it; move it, or allow its namespace here"
    )
    return Reason(ReasonCode.DOCUMENT_NOT_ALLOWED, text, document.origin)
