"""Manifests → the services of one target, bound to their runtimes: what git wants there. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from reconciler.config import HostTarget
from reconciler.digest import digest
from reconciler.effective import (
    Surroundings,
    Unusable,
    argument_origins,
    build_spec,
    find_container,
    ignored_volumes,
    names_of,
)
from reconciler.kserve.resolve import Issue, Resolved, World, resolve
from reconciler.manifests import Manifest, Manifests, find_duplicates
from reconciler.model import Desired, DesiredState, Origin, Reason, ServiceId, Snapshot
from reconciler.obstacles import find_obstacles, missing_secret
from reconciler.origins import CONTAINER, Origins
from reconciler.unseen import is_prunable, own_file, possible_runtimes, unreadable_places
from reconciler.wishes import Wishes, read_display_name, read_wishes

# A host's replicas are like the pods of a Deployment, so KServe's rules for that mode hold.
HOST_MODE = "Standard"

_SERVICE = "InferenceService"
_RUNTIMES = ("ServingRuntime", "ClusterServingRuntime")
_LABEL = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
_ADDED_BY_KSERVE = frozenset({CONTAINER, "storage-initializer", "modelcar", "modelcar-init"})


@dataclass(frozen=True, slots=True)
class _Scene:
    """Everything of one tree that a service's outcome depends on, beside its own document."""

    target: HostTarget
    world: World
    runtimes: dict[tuple[str, str, str], Manifest]
    config_maps: dict[tuple[str, str], dict[str, Any]]
    doubled: frozenset[Manifest]
    uncertain: tuple[Reason, ...]


@dataclass(slots=True)
class DesiredCache:
    """Remembers the outcome of every service while nothing it depends on changes. One for each target."""

    key: tuple[Any, ...] = ()
    scene: _Scene | None = None
    services: dict[Manifest, Desired] = field(default_factory=dict)


def build_desired(
    manifests: Manifests, target: HostTarget, snapshot: Snapshot, cache: DesiredCache | None = None
) -> DesiredState:
    """Every InferenceService of the target, also those that cannot be used: these say why.

    Of the snapshot only its revision and what is refused or missing are looked at.
    """
    cache = cache or DesiredCache()
    services = manifests.of_kind(_SERVICE)
    bad_names = [reason for each in services if (reason := _bad_name(each))]
    usable = [each for each in services if not _bad_name(each)]
    scene = _scene(manifests, target, snapshot, cache)
    known, cache.services = cache.services, {}
    for each in usable:
        cache.services[each] = known.get(each) or _describe(each, scene)
    return DesiredState(
        target=target.name,
        revision=snapshot.revision,
        services=tuple(_without_doubles(cache.services, target)),
        unreadable=(*unreadable_places(manifests, snapshot), *bad_names),
        prunable=is_prunable(manifests, target, snapshot),
        notes=tuple(_notes(manifests, target, snapshot)),
    )


def _bad_name(service: Manifest) -> Reason | None:
    """Names become host names and folders: only what KServe accepts becomes a service at all."""
    if _LABEL.fullmatch(service.name):
        return None
    text = f"{service.name} cannot name a service; begin with a letter and use small letters, digits and -, 63 at most"
    return Reason("InvalidName", text, service.origin_of(("metadata", "name")))


def _without_doubles(described: dict[Manifest, Desired], target: HostTarget) -> Iterator[Desired]:
    doubles = {group[0]: group for group in find_duplicates(described, target.default_namespace)}
    hidden = {manifest for group in doubles.values() for manifest in group[1:]}
    for manifest, desired in described.items():
        if manifest in doubles:
            problems = tuple(_doubled(each, doubles[manifest]) for each in doubles[manifest])
            yield _unusable(desired.id, manifest, problems)
        elif manifest not in hidden:
            yield desired


def _doubled(manifest: Manifest, group: Iterable[Manifest]) -> Reason:
    others = " and ".join(str(each.origin) for each in group if each is not manifest)
    return Reason(
        "Duplicate", f"{manifest.kind} {manifest.name} is also written at {others}; keep one", manifest.origin
    )


def _unusable(
    key: ServiceId, manifest: Manifest, problems: tuple[Reason, ...], warnings: tuple[Reason, ...] = ()
) -> Desired:
    return Desired(
        id=key,
        origin=manifest.origin,
        spec=None,
        digest="",
        problems=problems,
        warnings=(*manifest.warnings, *warnings),
        display_name=read_display_name(manifest),
    )


# ---------------------------------------------------------------- what a service depends on


def _scene(manifests: Manifests, target: HostTarget, snapshot: Snapshot, cache: DesiredCache) -> _Scene:
    """The scene of last time if nothing in it changed; else a new one, and the cache is emptied."""
    others = tuple(each for each in manifests.documents if each.kind != _SERVICE)
    uncertain = tuple(possible_runtimes(manifests, snapshot))
    key = (target, uncertain, others)
    if cache.scene is None or cache.key != key:
        cache.key, cache.services = key, {}
        cache.scene = _new_scene(others, target, uncertain)
    return cache.scene


def _new_scene(others: tuple[Manifest, ...], target: HostTarget, uncertain: tuple[Reason, ...]) -> _Scene:
    home = target.default_namespace
    doubles = find_duplicates(others, home)
    hidden = {manifest for group in doubles for manifest in group[1:]}
    single = [each for each in others if each not in hidden]
    return _Scene(
        target=target,
        world=World.build([each.data for each in single], default_namespace=home, default_mode=HOST_MODE),
        runtimes={
            (each.kind, each.namespace or home if each.kind == "ServingRuntime" else "", each.name): each
            for each in single
            if each.kind in _RUNTIMES
        },
        config_maps={
            (each.namespace or home, each.name): _data_of(each) for each in single if each.kind == "ConfigMap"
        },
        doubled=frozenset(manifest for group in doubles for manifest in group),
        uncertain=uncertain,
    )


def _data_of(config_map: Manifest) -> dict[str, Any]:
    data = config_map.data.get("data")
    return data if isinstance(data, dict) else {}


# ---------------------------------------------------------------- one service


def _describe(service: Manifest, scene: _Scene) -> Desired:
    key = ServiceId(service.namespace or scene.target.default_namespace, service.name)
    resolved = resolve(service.data, scene.world)
    runtime = _runtime_of(resolved, scene)
    origins = Origins(service, runtime)
    warnings = tuple(_reason(each, origins) for each in resolved.warnings)
    errors = [(issue, missing_secret(issue, origins)) for issue in resolved.errors]
    secrets = tuple(secret for _, secret in errors if secret)
    problems = [*(_reason(issue, origins) for issue, secret in errors if not secret), *_beyond_hosts(service)]
    if not problems:
        problems += _unsure_of_runtime(service, resolved, runtime, scene)
    if problems:
        return _unusable(key, service, tuple(problems), warnings)
    try:
        usable = _usable(key, resolved, origins, scene, warnings)
    except Unusable as problem:
        return _unusable(key, service, (problem.reason,), warnings)
    return replace(usable, blocked=(*usable.blocked, *secrets)) if secrets else usable


def _usable(
    key: ServiceId, resolved: Resolved, origins: Origins, scene: _Scene, warnings: tuple[Reason, ...]
) -> Desired:
    service = origins.service
    container = find_container(resolved.pod)
    if container is None:
        raise Unusable(Reason("InvalidPredictorSpec", f"there is no container named {CONTAINER}", service.origin))
    wishes = read_wishes(service)
    spec = build_spec(resolved, container, Surroundings(key.namespace, resolved.pod, scene.config_maps), origins)
    arguments = argument_origins(resolved, spec, origins)
    ignored = _ignored(service, resolved, wishes, ignored_volumes(resolved, container))
    return Desired(
        id=key,
        origin=service.origin,
        spec=spec,
        digest=digest(spec),
        replicas=wishes.replicas,
        strategy=wishes.strategy,
        canary_percent=wishes.canary_percent,
        drain_timeout=wishes.drain_timeout,
        request_timeout=wishes.request_timeout,
        argument_origins=arguments,
        blocked=tuple(find_obstacles(spec, arguments, scene.target, origins)),
        warnings=(*service.warnings, *warnings, *ignored),
        display_name=wishes.display_name,
    )


def _reason(issue: Issue, origins: Origins) -> Reason:
    return Reason(issue.reason, issue.message, origins.of_field(issue.path) if issue.path else origins.service.origin)


def _runtime_of(resolved: Resolved, scene: _Scene) -> Manifest | None:
    if resolved.runtime is None:
        return None
    return scene.runtimes.get((resolved.runtime.kind, resolved.runtime.namespace, resolved.runtime.name))


def _beyond_hosts(service: Manifest) -> Iterator[Reason]:
    spec = service.data.get("spec")
    spec = spec if isinstance(spec, dict) else {}
    predictor = spec.get("predictor")
    found = [("spec", name) for name in ("transformer", "explainer", "canary") if spec.get(name)]
    if isinstance(predictor, dict) and predictor.get("workerSpec") is not None:
        found.append(("spec", "predictor", "workerSpec"))  # type: ignore[arg-type]
    for path in found:
        text = f"{'.'.join(path)} is not for hosts; run this service on a Kubernetes cluster, or remove it"
        yield Reason("NotOnHosts", text, service.origin_of(path))


def _unsure_of_runtime(
    service: Manifest, resolved: Resolved, runtime: Manifest | None, scene: _Scene
) -> Iterator[Reason]:
    """A runtime that is written twice, or that another might outrank if only we could read it."""
    if runtime is None:
        return
    if runtime in scene.doubled:
        text = f"its runtime {runtime.name} ({runtime.origin}) is written more than once; keep one"
        yield Reason("Duplicate", text, service.origin)
    named = _names_runtime(service)
    if scene.uncertain and (not named or runtime.kind == "ClusterServingRuntime"):
        first = scene.uncertain[0]
        text = f"{first} - and that may hold the runtime this service would get; what runs is kept until it is readable"
        yield Reason("RuntimeUncertain", text, service.origin)


def _names_runtime(service: Manifest) -> bool:
    predictor = service.data["spec"].get("predictor")
    values = predictor.values() if isinstance(predictor, dict) else ()
    return any(isinstance(value, dict) and value.get("runtime") for value in values)


def _ignored(service: Manifest, resolved: Resolved, wishes: Wishes, volumes: list[str]) -> Iterator[Reason]:
    """What a cluster would do and a host does not."""
    highest = service.data["spec"]["predictor"].get("maxReplicas")
    if isinstance(highest, int) and highest > max(wishes.replicas, 1):
        text = f"maxReplicas is {highest}, but hosts do not scale by themselves: {wishes.replicas} will run"
        yield Reason("NoAutoscaling", text, service.origin_of(("spec", "predictor", "maxReplicas")))
    for key, what in (("containers", "container"), ("initContainers", "init container")):
        for name in names_of(resolved.pod.get(key), _ADDED_BY_KSERVE):
            yield Reason("ContainerIgnored", f"a host does not run the {what} {name}", service.origin)
    for name in volumes:
        yield Reason("VolumeIgnored", f"a host does not provide the volume {name}", service.origin)


# ---------------------------------------------------------------- what is worth saying beside the services


def _notes(manifests: Manifests, target: HostTarget, snapshot: Snapshot) -> Iterator[Reason]:
    yield from manifests.notes
    if not is_prunable(manifests, target, snapshot):
        file = own_file(target)
        text = f"{file} is missing or holds no Host document: nothing is pruned on {target.name}; restore it"
        yield Reason("NotPrunable", text, Origin(file, 1))
    for each in manifests.of_kind("Host"):
        if each.name != target.name:
            text = f"this file says host {each.name}, the config calls this target {target.name}"
            yield Reason("HostNameMismatch", text, each.origin_of(("metadata", "name")))
    for each in manifests.of_kind("LLMInferenceService", "Cluster"):
        yield Reason("NotOnHosts", f"{each.kind} {each.name} is for Kubernetes clusters; ignored here", each.origin)
    others = [each for each in manifests.documents if each.kind != _SERVICE]
    for group in find_duplicates(others, target.default_namespace):
        yield from (_doubled(each, group) for each in group)
    for each in others:
        yield from each.warnings
