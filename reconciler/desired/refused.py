"""Documents that services cannot use: refused as a cluster would, or unreadable. The last good ones stay. Pure.

Git does not tell what the last good one said. So a service that such a document decides about cannot be used: what
runs of it is kept, and nothing is concluded from the document being as good as absent.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

from reconciler.desired.volumes import CA_BUNDLE_COPY, KSERVE_NAMESPACE
from reconciler.kserve import api_server
from reconciler.kserve.cluster_objects import ClusterObjects
from reconciler.kserve.names import HARDWARE_PROFILE, HARDWARE_PROFILE_NAMESPACE
from reconciler.kserve.resolve import Resolved
from reconciler.kserve.storage import StorageContainer, StorageError
from reconciler.manifests import CLUSTER_SCOPED, SETTINGS, FieldPath, Manifest, Unreadable, duplicate_of
from reconciler.model import Reason, ReasonCode, ServiceId
from reconciler.model.model_sources import is_fetched

_FORMATS = ("spec", "supportedUriFormats")
# What decides about a Secret stands in the store of Secrets.
_ELSEWHERE = "Secret"

Key = tuple[str, str, str]


@dataclass(frozen=True)
class RefusedDocument:
    """One document, and each refused field of it, with the message of the API server or KServe's webhook."""

    manifest: Manifest
    flaws: tuple[tuple[FieldPath, str], ...] = ()
    duplicate: Reason | None = None
    """Why it is ambiguous: `kubectl apply` takes the last file, kustomize refuses both, and Argo CD warns."""

    @cached_property
    def reasons(self) -> tuple[Reason, ...]:
        """Each flaw with its line."""
        return tuple(
            Reason(ReasonCode.INVALID_DOCUMENT, message, self.manifest.origin_of(path)) for path, message in self.flaws
        )

    def reason_for(self, service: ServiceId) -> Reason:
        """The problem of a service that needs this document."""
        so_what = f"{service} depends on it and keeps what runs until this is corrected"
        if self.duplicate:
            return replace(self.duplicate, message=f"{self.duplicate.message}; {so_what}")
        first, *more = self.reasons
        others = f" (and {len(more)} more; `reconciler validate` lists all)" if more else ""
        text = f"{self.manifest.kind} {self.manifest.name} is refused: {first.message}{others}; {so_what}"
        return Reason(ReasonCode.INVALID_DOCUMENT, text, first.origin)


@dataclass(frozen=True, slots=True)
class RefusedDocuments:
    """All of one tree but InferenceServices and Secrets, by kind, namespace and name."""

    by_key: Mapping[Key, RefusedDocument] = field(default_factory=dict)
    others: tuple[RefusedDocument, ...] = ()
    """Those that decide about nothing here: kinds that a host does not read, and duplicates of the first."""
    memo: dict[tuple[Any, ...], tuple[RefusedDocument, ...]] = field(default_factory=dict, repr=False)
    """Answers that services share: one may be one of thousands, and so may a document."""

    @property
    def reasons(self) -> Iterator[Reason]:
        for each in (*self.by_key.values(), *self.others):
            yield from each.reasons

    def of_kind(self, *kinds: str) -> Iterator[tuple[Key, RefusedDocument]]:
        return ((key, each) for key, each in self.by_key.items() if key[0] in kinds)

    def shared(
        self, key: tuple[Any, ...], find: Callable[[], Iterable[RefusedDocument]]
    ) -> tuple[RefusedDocument, ...]:
        """The results of `find`, one call for each key."""
        if key not in self.memo:
            self.memo[key] = tuple(find())
        return self.memo[key]


def find_refused(
    cluster: ClusterObjects,
    judged: Sequence[Manifest],
    others: Iterable[Manifest],
    duplicates: Iterable[tuple[Manifest, ...]] = (),
) -> RefusedDocuments:
    """What is refused of the documents that `cluster` was built from, and of others next to them.

    Of `duplicates`, groups of one name, `cluster` has the first: which one counts is not decided here.
    """
    flaws: dict[Manifest, list[tuple[FieldPath, str]]] = {}
    for issue in cluster.issues:
        flaws.setdefault(judged[issue.index], []).append((issue.path, issue.message))
    named = {
        key_of(each, cluster.default_namespace): RefusedDocument(each, tuple(found))
        for each, found in flaws.items()
        if each.kind != _ELSEWHERE
    }
    for first, *more in duplicates:
        flawed = named.get(key := key_of(first, cluster.default_namespace), RefusedDocument(first))
        named[key] = replace(flawed, duplicate=duplicate_of(first, (first, *more)))
    return RefusedDocuments(named, tuple(_refused_alone(others)))


def _refused_alone(others: Iterable[Manifest]) -> Iterator[RefusedDocument]:
    for each in others:
        found = api_server.read(each.data)[1] if each.kind != _ELSEWHERE else ()
        if found:
            yield RefusedDocument(each, tuple((flaw.path, flaw.message) for flaw in found))


def key_of(document: Manifest, default_namespace: str) -> Key:
    """Kind, namespace and name; a kind of the whole cluster has no namespace."""
    namespace = "" if document.kind in CLUSTER_SCOPED else document.namespace or default_namespace
    return document.kind, namespace, document.name


# ---------------------------------------------------------------- what a service needs


def refused_for(
    service: ServiceId, resolved: Resolved, refused: RefusedDocuments, cluster: ClusterObjects
) -> Iterator[Reason]:
    """Why a service cannot be used: each refused document that decides, or may decide, what becomes of it."""
    if not refused.by_key:
        return
    needed = [
        *refused.shared((SETTINGS,), partial(_settings, refused)),
        *_runtimes(service, resolved, refused),
        *_of_pod(service, resolved.pod, refused, cluster),
        *_storage_containers(resolved, refused, cluster),
        *filter(None, [refused.by_key.get(("HardwareProfile", *(profile_of(service, resolved) or ("", ""))))]),
    ]
    for document in dict.fromkeys(needed):
        yield document.reason_for(service)


def _settings(refused: RefusedDocuments) -> Iterator[RefusedDocument]:
    """KServe's own ConfigMap decides about every service."""
    return (each for key, each in refused.of_kind("ConfigMap") if key[2] == SETTINGS)


def _runtimes(service: ServiceId, resolved: Resolved, refused: RefusedDocuments) -> Iterator[RefusedDocument]:
    chosen = resolved.runtime
    if chosen and (found := refused.by_key.get((chosen.kind, chosen.namespace, chosen.name))):
        yield found
    model = _predictor(resolved).get("model")
    if model is None:
        return
    # The namespace's own runtime goes before any of the cluster.
    own_is_chosen = chosen is not None and chosen.kind == "ServingRuntime"
    for kind, namespace in (("ServingRuntime", service.namespace), ("ClusterServingRuntime", ""))[: 2 - own_is_chosen]:
        if name := model.get("runtime"):
            yield from filter(None, [refused.by_key.get((kind, namespace, str(name)))])
        else:
            wanted = (model.get("modelFormat") or {}).get("name")
            yield from refused.shared((kind, namespace, wanted), partial(_offering, refused, kind, namespace, wanted))


def _offering(refused: RefusedDocuments, kind: str, namespace: str, wanted: Any) -> Iterator[RefusedDocument]:
    for (_, where, _), each in refused.of_kind(kind):
        if where == namespace and _may_offer(each.manifest, wanted):
            yield each


def _predictor(resolved: Resolved) -> Mapping[str, Any]:
    return (resolved.defaulted.get("spec") or {}).get("predictor") or {}


def _may_offer(runtime: Manifest, wanted: Any) -> bool:
    """May a runtime that is refused be for this format? Not where it plainly lists others only."""
    spec = runtime.data.get("spec")
    listed = spec.get("supportedModelFormats") if isinstance(spec, dict) else None
    if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
        return True
    offered = [each.get("name") for each in listed]
    return wanted in offered or not all(isinstance(each, str) for each in offered)


def _of_pod(
    service: ServiceId, pod: Mapping[str, Any], refused: RefusedDocuments, cluster: ClusterObjects
) -> Iterator[RefusedDocument]:
    """ConfigMaps that the pod refers to anywhere, and the account it runs as."""
    account = "ServiceAccount", service.namespace, str(pod.get("serviceAccountName") or "default")
    if found := refused.by_key.get(account):
        yield found
    bundle = KSERVE_NAMESPACE, str(cluster.config["storageInitializer"].get("caBundleConfigMapName"))
    for name in config_maps_of(pod):
        places = [(service.namespace, name), *([bundle] if name == CA_BUNDLE_COPY else [])]
        yield from filter(None, (refused.by_key.get(("ConfigMap", *place)) for place in places))


def config_maps_of(value: Any) -> Iterator[str]:
    """Names in `configMap`, `configMapRef` and `configMapKeyRef`, at any depth."""
    if isinstance(value, list | tuple):
        for each in value:
            yield from config_maps_of(each)
    elif isinstance(value, Mapping):
        for key, each in value.items():
            if key in ("configMap", "configMapRef", "configMapKeyRef") and isinstance(each, Mapping):
                yield str(each.get("name"))
            yield from config_maps_of(each)


def profile_of(service: ServiceId, resolved: Resolved) -> tuple[str, str] | None:
    """Namespace and name of the hardware profile of a service."""
    annotations = (resolved.defaulted.get("metadata") or {}).get("annotations") or {}
    name = annotations.get(HARDWARE_PROFILE)
    return (annotations.get(HARDWARE_PROFILE_NAMESPACE) or service.namespace, name) if name else None


def _storage_containers(
    resolved: Resolved, refused: RefusedDocuments, cluster: ClusterObjects
) -> Iterator[RefusedDocument]:
    known = {each.name: each for each in cluster.storage_containers}
    named = _predictor(resolved).get("storageContainerName")
    fetched = [each.uri for each in resolved.storage if is_fetched(each.uri)]
    for (_, _, name), each in refused.of_kind("ClusterStorageContainer"):
        listed = known[name].spec.get("supportedUriFormats")
        unclear = not listed or any(path[:2] == _FORMATS for path, _ in each.flaws)
        if named == name or any(unclear or _supports(known[name], uri) for uri in fetched):
            yield each


def _supports(container: StorageContainer, uri: str) -> bool:
    try:
        return container.supports(uri)
    except StorageError:
        return True


# The last one: unknown.
_KINDS = ("ConfigMap", "Secret", "ServiceAccount", "ClusterStorageContainer", "HardwareProfile", "")
_SETTINGS = "settings"

UnreadableKinds = Mapping[str, Reason]


def unreadable_kinds(unreadable: Iterable[Unreadable]) -> UnreadableKinds:
    """The first document of each kind that a service may need except runtimes, and the one of KServe's settings."""
    found: dict[str, Reason] = {}
    for each in unreadable:
        if each.kind in _KINDS:
            found.setdefault(each.kind, each.reason)
        if each.names_settings:
            found.setdefault(_SETTINGS, each.reason)
    return found


def unreadable_for(
    service: ServiceId,
    resolved: Resolved,
    unreadable: UnreadableKinds,
    cluster: ClusterObjects,
    config_maps: Container[tuple[str, str]],
) -> Iterator[Reason]:
    """Why a service cannot be used: what it needs is not in the tree, and may be in what cannot be read."""
    if not unreadable:
        return
    for what, is_named in dict(_needed(service, resolved, cluster, config_maps)).items():
        found = unreadable.get(what) or (unreadable.get("") if is_named else None)
        if found:
            yield _reason(service, what, found)


def _needed(
    service: ServiceId, resolved: Resolved, cluster: ClusterObjects, config_maps: Container[tuple[str, str]]
) -> Iterator[tuple[str, bool]]:
    """What may be in what cannot be read, and whether the service names it: then it may also be of no known kind."""
    yield _SETTINGS, False
    if any((service.namespace, name) not in config_maps for name in config_maps_of(resolved.pod)):
        yield "ConfigMap", True
    if (profile := profile_of(service, resolved)) and profile not in cluster.profiles:
        yield "HardwareProfile", True
    if any(is_fetched(each.uri) for each in resolved.storage):
        yield "ClusterStorageContainer", False
        account = str(resolved.pod.get("serviceAccountName") or "default")
        if (service.namespace, account) not in cluster.accounts:
            yield "ServiceAccount", account != "default"


def _reason(service: ServiceId, kind: str, found: Reason) -> Reason:
    what = f"ConfigMap {SETTINGS}" if kind == _SETTINGS else f"a {kind} that {service} needs"
    text = f"{found.message}; this may be {what}, so what runs is kept until it is readable"
    return Reason(ReasonCode.DEPENDENCY_UNREADABLE, text, found.origin)
