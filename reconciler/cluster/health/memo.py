"""What was found of services that are well, until something of theirs changes: most of a cluster in most passes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from reconciler.cluster.health.children import Children
from reconciler.cluster.health.look import Expected, ServingHealth
from reconciler.cluster.health.pods import Logs
from reconciler.cluster.health.problems import HealthLimits
from reconciler.cluster.health.service import service_health
from reconciler.model import HealthStatus, ServiceId
from reconciler.model.objects import KubeObject

# Time alone changes nothing of these.
_STEADY = frozenset({HealthStatus.HEALTHY, HealthStatus.SUSPENDED})


@dataclass(frozen=True, slots=True)
class _Known:
    service: KubeObject
    children: Children
    expected: Expected | None
    health: ServingHealth


class HealthMemo:
    """`service_health` that looks again only where an object is another one than before. Objects are compared by
    identity: a watch gives a new one for every change."""

    def __init__(self, limits: HealthLimits) -> None:
        self._limits = limits
        self._known: dict[ServiceId, _Known] = {}

    def health(
        self,
        service: KubeObject,
        children: Children,
        now: float,
        logs: Logs | None = None,
        expected: Expected | None = None,
    ) -> ServingHealth:
        """How an InferenceService stands. Never raises."""
        key = _id(service)
        known = self._known.get(key)
        if known and known.service is service and known.expected == expected and _same(known.children, children):
            return known.health
        found = service_health(service, children, now, self._limits, logs=logs, expected=expected)
        if found.health.phase in _STEADY:
            self._known[key] = _Known(service, children, expected, found)
        else:
            self._known.pop(key, None)
        return found

    def keep_only(self, services: Iterable[ServiceId]) -> None:
        """Forgets the others, which are gone."""
        self._known = {each: self._known[each] for each in services if each in self._known}


def _id(service: KubeObject) -> ServiceId:
    metadata = service.get("metadata")
    named = metadata if isinstance(metadata, dict) else {}
    return ServiceId(str(named.get("namespace")), str(named.get("name")))


def _same(before: Children, now: Children) -> bool:
    pairs = (
        (before.deployments, now.deployments),
        (before.replica_sets, now.replica_sets),
        (before.pods, now.pods),
        (before.events, now.events),
    )
    return all(_identical(*pair) for pair in pairs)


def _identical(before: tuple[KubeObject, ...], now: tuple[KubeObject, ...]) -> bool:
    return len(before) == len(now) and all(one is other for one, other in zip(before, now, strict=True))
