"""What the services of one tree share: runtimes, ConfigMaps, unreadable documents. Cached while it does not change."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from reconciler.config.settings import TargetSettings
from reconciler.desired.limits import Size
from reconciler.desired.placement import node_of
from reconciler.desired.prune_safety import possible_runtimes
from reconciler.desired.refused import RefusedDocuments, find_refused, key_of
from reconciler.desired.secrets import as_kserve_sees
from reconciler.desired.unreadable import UnreadableKinds, unreadable_kinds
from reconciler.kserve.resolve import ClusterObjects
from reconciler.kserve.scheduling import Node
from reconciler.manifests import Manifest, Manifests, Templated, find_duplicates
from reconciler.model import Desired, Reason, Snapshot
from reconciler.secrets import SecretStore

# A host's replicas are like the pods of a Deployment, so KServe's rules for that mode hold.
HOST_MODE = "Standard"
SERVICE = "InferenceService"

_RUNTIMES = ("ServingRuntime", "ClusterServingRuntime")
# Their volumes are on a cluster's nodes: a host fetches the model itself.
_CACHES = ("LocalModelCache", "LocalModelNamespaceCache")


@dataclass(frozen=True, slots=True)
class DesiredContext:
    """Everything of one tree that a service's outcome depends on, except its own document."""

    target: TargetSettings
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
    manifests: Manifests, target: TargetSettings, snapshot: Snapshot, cache: DesiredCache, secrets: SecretStore
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
    target: TargetSettings,
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
        runtimes={key_of(each, home): each for each in single if each.kind in _RUNTIMES},
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
