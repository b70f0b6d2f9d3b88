"""Manifests → the desired state of a cluster: every object of the tree, and of each InferenceService what runs. Pure.

The API server and KServe decide what they accept. Here it is only found out what KServe would make of a service, as
far as git can tell: runtimes and Secrets may be on the cluster alone, and then its spec is not known.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from reconciler.config.settings import ClusterSettings
from reconciler.desired.context import faults_without_services, missing_places, not_prunable, skipped_files
from reconciler.desired.limits import MAX_NOTES, check_documents, check_kinds, first, too_large
from reconciler.desired.origins import Origins
from reconciler.desired.refused import key_of
from reconciler.desired.secrets import as_kserve_sees
from reconciler.desired.service import reason_of, service_id, unusable
from reconciler.desired.serving_options import is_on_dashboard, is_stopped, read_serving_options
from reconciler.desired.spec import Surroundings, UnusableField, build_spec, find_container
from reconciler.desired.volumes import build_file_mounts, build_mounts
from reconciler.fault_isolation import caught
from reconciler.kserve.names import GROUP, RUNTIME_KINDS
from reconciler.kserve.resolve import ClusterObjects, Resolved, resolve
from reconciler.manifests import KNOWN_KINDS, OUR_API, Manifest, Manifests, duplicate_of, find_duplicates
from reconciler.model import (
    Desired,
    DesiredObject,
    DesiredState,
    EffectiveSpec,
    ObjectId,
    Reason,
    ReasonCode,
    Rendered,
    ServiceId,
    Snapshot,
)
from reconciler.secrets import NO_SECRETS, SecretStore
from reconciler.secrets.disclosed import disclosed
from reconciler.secrets.sops import is_encrypted

CLUSTER_FILE = "cluster.yaml"
_SERVICE = "InferenceService"
# What the API server or KServe's webhooks refuse, whatever else is on the cluster.
_REFUSED = (ReasonCode.INVALID_DOCUMENT, ReasonCode.ADMISSION_DENIED)
_NOT_OURS = (ReasonCode.UNKNOWN_KIND, ReasonCode.UNSUPPORTED_KIND)
# Always in a namespace, whatever the API server says.
_NAMESPACED = frozenset(
    {_SERVICE, "ServingRuntime", "LocalModelNamespaceCache", "LLMInferenceService", "ConfigMap", "Secret"}
    | {"ServiceAccount", "HardwareProfile"}
)


@dataclass(slots=True)
class ClusterCache:
    """The outcome for every document while nothing it depends on changes. One for each target."""

    key: tuple[Any, ...] = ()
    tree: _Tree | None = None
    objects: dict[Manifest, DesiredObject] = field(default_factory=dict)
    services: dict[Manifest, tuple[Desired, DesiredObject]] = field(default_factory=dict)
    tracebacks: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Tree:
    """What the services of one tree share."""

    target: ClusterSettings
    cluster: ClusterObjects
    runtimes: Mapping[tuple[str, str, str], Manifest]
    config_maps: Mapping[tuple[str, str], Mapping[str, Any]]
    secrets: SecretStore


def build_cluster_desired(
    manifests: Manifests,
    target: ClusterSettings,
    snapshot: Snapshot,
    cache: ClusterCache | None = None,
    secrets: SecretStore = NO_SECRETS,
) -> DesiredState:
    """Every object of the target. Raises NotUnderstood where it is too much."""
    cache = cache or ClusterCache()
    every = replace(manifests, documents=(*manifests.documents, *manifests.others))
    check_documents(every, snapshot, target.name)
    documents = [each for each in every.documents if each.api_version != OUR_API]
    check_kinds(documents, target.name)
    doubles = find_duplicates(documents, target.default_namespace)
    doubled = {each: duplicate_of(each, group) for group in doubles for each in group}
    tree = _tree_of(documents, target, secrets, cache)
    services, objects = _all(documents, doubled, tree, cache)
    unnamed = _unnamed(documents, target)
    return DesiredState(
        target=target.name,
        revision=snapshot.revision,
        services=services,
        objects=objects,
        unreadable=tuple(_unreadable(manifests, snapshot, doubled)),
        prunable=_is_prunable(manifests, target, snapshot),
        notes=first((*_notes(manifests, target, snapshot), *secrets.notes), MAX_NOTES),
        refused=first((*faults_without_services(manifests), *secrets.faults), MAX_NOTES),
        skipped=skipped_files(manifests, snapshot),
        paths=target.paths,
        in_default_namespace=frozenset(one.id for one in services if one.id in unnamed),
    )


def cluster_file(target: ClusterSettings) -> str:
    """The file that shows that a target's folder is really there."""
    return "/".join(filter(None, (target.own_path, CLUSTER_FILE)))


def _is_prunable(manifests: Manifests, target: ClusterSettings, snapshot: Snapshot) -> bool:
    file = cluster_file(target)
    return target.own_path not in snapshot.missing and any(
        each.origin.file == file for each in manifests.of_kind("Cluster")
    )


def _unnamed(documents: list[Manifest], target: ClusterSettings) -> set[ServiceId]:
    unnamed = (each for each in documents if each.kind == _SERVICE and each.namespace is None)
    return {ServiceId(target.default_namespace, each.name) for each in unnamed}


def _tree_of(documents: list[Manifest], target: ClusterSettings, secrets: SecretStore, cache: ClusterCache) -> _Tree:
    """The same objects while nothing that services share changed; else every service is looked at again."""
    shared = tuple(each for each in documents if each.kind != _SERVICE and each.kind in KNOWN_KINDS)
    key = (target, shared, secrets)
    if cache.tree is None or cache.key != key:
        cache.key, cache.services = key, {}
        cache.tree = _new_tree(shared, target, secrets)
    return cache.tree


def _new_tree(shared: tuple[Manifest, ...], target: ClusterSettings, secrets: SecretStore) -> _Tree:
    home = target.default_namespace
    cluster = ClusterObjects.build(
        [each.data for each in shared],
        default_namespace=home,
        default_mode="Standard",
        secrets=as_kserve_sees(secrets),
        places=[str(each.origin) for each in shared],
    )
    runtimes = {key_of(each, home): each for each in shared if each.kind in RUNTIME_KINDS}
    maps = {(each.namespace or home, each.name): each.data for each in shared if each.kind == "ConfigMap"}
    values = {key: data["data"] for key, data in maps.items() if isinstance(data.get("data"), dict)}
    return _Tree(target, cluster, runtimes, values, secrets)


def _all(
    documents: list[Manifest], doubled: Mapping[Manifest, Reason], tree: _Tree, cache: ClusterCache
) -> tuple[tuple[Desired, ...], tuple[DesiredObject, ...]]:
    known, cache.objects = cache.objects, {}
    described, cache.services = cache.services, {}
    services: dict[ServiceId, Desired] = {}
    objects: list[DesiredObject] = []
    for each in documents:
        if each.kind != _SERVICE:
            if each not in doubled:
                cache.objects[each] = one = known.get(each) or as_object(each, tree.target)
                objects.append(_with_refusal(one, each, tree.secrets))
            continue
        service, found = described.get(each) or _describe_safely(each, tree, cache)
        cache.services[each] = service, found
        if each in doubled:
            problems = (*services[service.id].problems, doubled[each]) if service.id in services else (doubled[each],)
            services[service.id] = replace(service, spec=None, digest="", problems=problems)
            continue
        services[service.id] = service
        if not service.problems:
            objects.append(found)
    return tuple(services.values()), tuple(objects)


# ---------------------------------------------------------------- objects


def as_object(manifest: Manifest, target: ClusterSettings) -> DesiredObject:
    """A document as it would be applied. One without a namespace has none yet, unless its kind always has one."""
    namespace = manifest.namespace or (target.default_namespace if manifest.kind in _NAMESPACED else "")
    encrypted = manifest.kind == "Secret" and is_encrypted(manifest.data)
    left_out = ("status", "sops", "data", "stringData") if encrypted else ("status",)
    body = {key: value for key, value in manifest.data.items() if key not in left_out}
    metadata = {key: value for key, value in body["metadata"].items() if key != "creationTimestamp"}
    body["metadata"] = metadata | ({"namespace": namespace} if namespace else {})
    group, _, _ = manifest.api_version.rpartition("/")
    return DesiredObject(
        id=ObjectId(group, manifest.kind, namespace, manifest.name),
        origin=manifest.origin,
        body=body,
        hash=hash_of(body),
        lines=_lines_of(manifest, body),
        service=ServiceId(namespace, manifest.name) if manifest.kind == _SERVICE else None,
        is_encrypted=encrypted,
    )


def _with_refusal(one: DesiredObject, manifest: Manifest, secrets: SecretStore) -> DesiredObject:
    """A Secret that may not be used is not applied either."""
    if manifest.kind != "Secret" or one.id.group:
        return one
    why = secrets.why_refused(one.id.namespace, one.id.name, manifest.origin_of(("metadata",)))
    return one if why is None else replace(one, refused=why)


def hash_of(value: object) -> str:
    """Equal for equal values, whatever the order of their keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _lines_of(manifest: Manifest, body: Mapping[str, Any]) -> Any:
    """The lines of what is kept of a document, in its own order; what we added has the line of its parent."""
    return _same_order(body, manifest.data, manifest.lines)


def _same_order(value: Any, source: Any, lines: Any) -> Any:
    line = lines[0] if isinstance(lines, tuple) else lines
    if not isinstance(lines, tuple):
        return line
    if isinstance(value, dict) and isinstance(source, dict):
        places = dict(zip(source, lines[1], strict=False))
        return line, tuple(
            _same_order(each, source[key], places[key]) if key in places else line for key, each in value.items()
        )
    if isinstance(value, list) and isinstance(source, list) and len(value) == len(source):
        return line, tuple(_same_order(*each) for each in zip(value, source, lines[1], strict=False))
    return line


# ---------------------------------------------------------------- services


def _describe_safely(service: Manifest, tree: _Tree, cache: ClusterCache) -> tuple[Desired, DesiredObject]:
    """A service that we fail on is one that cannot be used: what runs of it is kept, and the others go on."""
    found = as_object(service, tree.target)
    try:
        return _describe(service, found, tree)
    except MemoryError:
        raise
    except Exception as error:
        reason, bug = caught(error, f"working out {service.name}", service.origin)
        cache.tracebacks.append(f"{service.origin}: {bug.subject}: {bug.traceback}")
        return unusable(service_id(service, tree.target), service, (reason,)), found


def _describe(service: Manifest, found: DesiredObject, tree: _Tree) -> tuple[Desired, DesiredObject]:
    resolved = resolve(service.data, tree.cluster)
    ref = resolved.runtime
    runtime = tree.runtimes.get((ref.kind, ref.namespace, ref.name)) if ref else None
    origins = Origins(service, runtime)
    problems = tuple(reason_of(each, origins, resolved.pod) for each in resolved.errors if each.reason in _REFUSED)
    warnings = tuple(reason_of(each, origins, resolved.pod) for each in resolved.warnings)
    if problems:
        return unusable(service_id(service, tree.target), service, problems, warnings), found
    found = _with_rendered(_with_runtime_named(found, resolved), resolved)
    doubts = tuple(reason_of(each, origins, resolved.pod) for each in resolved.errors)
    options = read_serving_options(service)
    spec = None if doubts else _spec_of(resolved, origins, tree)
    basis = (found.hash, runtime and hash_of(runtime.data.get("spec")), ref and (ref.kind, ref.name))
    return (
        Desired(
            id=service_id(service, tree.target),
            origin=service.origin,
            spec=spec,
            digest=f"sha256:{hash_of(basis)}",
            replicas=options.replicas,
            strategy=options.strategy,
            canary_percent=options.canary_percent,
            drain_timeout=options.drain_timeout,
            warnings=(*service.warnings, *warnings, *doubts, *disclosed(service)),
            display_name=options.display_name,
            dashboard=is_on_dashboard(service),
            stopped=is_stopped(service),
            resources_origin=origins.of_container_field("resources"),
        ),
        found,
    )


def _spec_of(resolved: Resolved, origins: Origins, tree: _Tree) -> EffectiveSpec | None:
    """What KServe's container would be; None where git cannot tell, or it is nothing that a container can be."""
    container = find_container(resolved.pod)
    if container is None:
        return None
    service = origins.service
    namespace = service.namespace or tree.target.default_namespace
    around = Surroundings(namespace, resolved.pod, tree.config_maps, node=tree.target.name)
    try:
        mounts, files = build_mounts(resolved, container, around), build_file_mounts(container, around, origins)
        spec = build_spec(container, mounts, files, around, origins)
    except UnusableField:
        return None
    return None if too_large(spec, service.origin) else spec


def _with_runtime_named(found: DesiredObject, resolved: Resolved) -> DesiredObject:
    """KServe knows runtimes by name alone: one that is named as it is displayed is applied by its name."""
    model = found.body.get("spec", {}).get("predictor", {}).get("model")
    if resolved.runtime is None or not isinstance(model, dict) or model.get("runtime") in (None, resolved.runtime.name):
        return found
    spec = found.body["spec"]
    predictor = spec["predictor"] | {"model": model | {"runtime": resolved.runtime.name}}
    body = {**found.body, "spec": spec | {"predictor": predictor}}
    return replace(found, body=body, hash=hash_of(body))


def _with_rendered(found: DesiredObject, resolved: Resolved) -> DesiredObject:
    if not resolved.pod:
        return found
    ref = resolved.runtime
    runtime = ObjectId(GROUP, ref.kind, ref.namespace, ref.name) if ref else None
    return replace(found, rendered=Rendered(dict(resolved.pod), resolved.deployment_mode, runtime))


# ---------------------------------------------------------------- what is not concluded


def _unreadable(manifests: Manifests, snapshot: Snapshot, doubled: Mapping[Manifest, Reason]) -> Iterator[Reason]:
    """Places whose objects are kept as they are. Whatever the kind: none of them may be pruned."""
    for each in manifests.unreadable:
        yield each.reason
    yield from missing_places(snapshot, "what came from there is kept")
    yield from (reason for each, reason in doubled.items() if each.kind != _SERVICE)


def _notes(manifests: Manifests, target: ClusterSettings, snapshot: Snapshot) -> Iterator[Reason]:
    if not _is_prunable(manifests, target, snapshot):
        yield not_prunable(cluster_file(target), "Cluster", target.name)
    yield from (note for note in manifests.notes if note.code not in _NOT_OURS)
    for each in manifests.documents:
        if each.kind != _SERVICE:
            yield from each.warnings
            yield from disclosed(each)
