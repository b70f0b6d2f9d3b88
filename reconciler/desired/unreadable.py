"""Documents of a known kind that cannot be read: what a service needs of it is not missing, but unknown. Pure."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping

from reconciler.desired.refused import config_maps_of, profile_of
from reconciler.kserve.cluster_objects import ClusterObjects
from reconciler.kserve.resolve import Resolved
from reconciler.manifests import SETTINGS, Unreadable
from reconciler.model import Reason, ReasonCode, ServiceId
from reconciler.model.model_sources import is_fetched

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
