"""In which order objects are applied, and deleted: by sync wave, kind and dependencies. Pure.

A sync wave counts most, as in Argo CD; in a wave kinds go in the order in which one needs another; and a dependency
moves what depends on it behind it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from reconciler.model import NO_ORIGIN, NoOrigin, ObjectId, Origin, Reason, ReasonCode

# Kinds by what needs what, earlier groups first. Unknown kinds come after all of these.
_GROUPS: Final = (
    "Namespace",
    "CustomResourceDefinition.apiextensions.k8s.io",
    "PriorityClass.scheduling.k8s.io RuntimeClass.node.k8s.io StorageClass.storage.k8s.io ResourceQuota LimitRange "
    "NetworkPolicy.networking.k8s.io",
    "ServiceAccount ClusterRole.rbac.authorization.k8s.io Role.rbac.authorization.k8s.io",
    "ClusterRoleBinding.rbac.authorization.k8s.io RoleBinding.rbac.authorization.k8s.io",
    "Secret ConfigMap",
    "PersistentVolume PersistentVolumeClaim ClusterStorageContainer.serving.kserve.io "
    "LocalModelNodeGroup.serving.kserve.io LocalModelCache.serving.kserve.io "
    "LocalModelNamespaceCache.serving.kserve.io",
    "ClusterServingRuntime.serving.kserve.io ServingRuntime.serving.kserve.io "
    "LLMInferenceServiceConfig.serving.kserve.io",
    "Service Deployment.apps StatefulSet.apps DaemonSet.apps Job.batch CronJob.batch Pod "
    "InferenceService.serving.kserve.io LLMInferenceService.serving.kserve.io TrainedModel.serving.kserve.io",
    "InferenceGraph.serving.kserve.io HorizontalPodAutoscaler.autoscaling ScaledObject.keda.sh "
    "PodDisruptionBudget.policy",
    "Gateway.gateway.networking.k8s.io Ingress.networking.k8s.io HTTPRoute.gateway.networking.k8s.io "
    "GRPCRoute.gateway.networking.k8s.io",
)
_RANKS: Final = {kind: rank for rank, group in enumerate(_GROUPS) for kind in group.split()}

_MOST_NAMED = 50

_Position = tuple[int, int, int]
"""Sync wave, rank of the kind, and how far dependencies move it behind others of both."""


@dataclass(frozen=True, slots=True)
class Ordered:
    """What decides when an object's turn is."""

    id: ObjectId
    wave: int = 0
    depends_on: tuple[ObjectId, ...] = ()
    origin: Origin | NoOrigin = NO_ORIGIN


@dataclass(frozen=True, slots=True)
class Order:
    """Objects that may go together, one group after another. `blocked` are those that no group can hold, and why."""

    waves: tuple[tuple[ObjectId, ...], ...]
    blocked: Mapping[ObjectId, Reason] = field(default_factory=dict)


def apply_order(objects: Iterable[Ordered]) -> Order:
    """What depends on itself, on what git does not have, or on a later wave, is blocked, with all that depends on it;
    the rest goes on."""
    graph = _Graph({each.id: each for each in objects})
    positions = {one: position for one in graph.objects if (position := graph.position(one)) is not None}
    return Order(_grouped(positions), graph.blocked)


def deletion_order(objects: Iterable[Ordered]) -> tuple[tuple[ObjectId, ...], ...]:
    """The other way round. Nothing is blocked: a dependency that makes no sense does not count."""
    every = {each.id: each for each in objects}
    order = apply_order(every.values())
    while order.blocked:
        every |= {one: Ordered(one, every[one].wave) for one in order.blocked}
        order = apply_order(every.values())
    return order.waves[::-1]


def _grouped(positions: Mapping[ObjectId, _Position]) -> tuple[tuple[ObjectId, ...], ...]:
    groups: dict[_Position, list[ObjectId]] = {}
    for one in sorted(positions):
        groups.setdefault(positions[one], []).append(one)
    return tuple(tuple(groups[position]) for position in sorted(groups))


class _Graph:
    """Objects and their dependencies, followed without recursion: a chain may be as long as git likes."""

    def __init__(self, objects: Mapping[ObjectId, Ordered]) -> None:
        self.objects = objects
        self.blocked: dict[ObjectId, Reason] = {}
        self._positions: dict[ObjectId, _Position] = {}

    def position(self, start: ObjectId) -> _Position | None:
        """None: it is blocked."""
        path = [] if self._is_known(start) else [start]
        on_path = set(path)
        while path:
            one = path[-1]
            following = self._unknown(one)
            if following is None:
                self._settle(one)
            elif following in on_path:
                self._block_cycle(path[path.index(following) :])
            else:
                path.append(following)
                on_path.add(following)
                continue
            while path and self._is_known(path[-1]):
                on_path.discard(path.pop())
        return self._positions.get(start)

    def _unknown(self, one: ObjectId) -> ObjectId | None:
        wanted = self.objects[one].depends_on
        return next((each for each in wanted if each in self.objects and not self._is_known(each)), None)

    def _is_known(self, one: ObjectId) -> bool:
        return one in self._positions or one in self.blocked

    def _settle(self, one: ObjectId) -> None:
        """All that it depends on is known."""
        if problem := next(self._problems(self.objects[one]), None):
            self._block(one, problem)
            return
        position = (self.objects[one].wave, _rank(one), 0)
        for each in self.objects[one].depends_on:
            wave, rank, depth = self._positions[each]
            position = max(position, (wave, rank, depth + 1))
        self._positions[one] = position

    def _problems(self, one: Ordered) -> Iterator[str]:
        for each in one.depends_on:
            if each not in self.objects:
                yield f"{one.id} depends on {each}, which is not in git for this target; add it, or correct the name"
            elif each in self.blocked:
                yield f"{one.id} depends on {each}, which cannot be applied itself"
            elif (wave := self.objects[each].wave) > one.wave:
                yield f"{one.id} is in sync wave {one.wave}, but depends on {each} in the later wave {wave}"

    def _block_cycle(self, cycle: list[ObjectId]) -> None:
        shown = [str(each) for each in cycle[:_MOST_NAMED]]
        shown += [f"{len(cycle) - _MOST_NAMED} more"] if len(cycle) > _MOST_NAMED else []
        names = " → ".join([*shown, str(cycle[0])])
        message = f"objects depend on each other in a circle: {names}; take one dependency out"
        for one in cycle:
            self._block(one, message)

    def _block(self, one: ObjectId, message: str) -> None:
        self.blocked[one] = Reason(ReasonCode.INVALID_DEPENDENCY, message, self.objects[one].origin)


def _rank(one: ObjectId) -> int:
    return _RANKS.get(f"{one.kind}.{one.group}" if one.group else one.kind, len(_GROUPS))
