"""The two wings as the contract sees them: a target in memory that converges on git, and its pure planner."""

from __future__ import annotations

import hashlib
import random
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeVar

from reconciler.cluster import plan as cluster_plan
from reconciler.cluster import pruning as cluster_pruning
from reconciler.cluster.health.look import ServingHealth
from reconciler.cluster.health.problems import Fault, Problem
from reconciler.cluster.objects import prune as cluster_prune
from reconciler.cluster.objects.compare import applied
from reconciler.cluster.objects.ignore import Rules, applied_body
from reconciler.cluster.objects.inventory import ClusterInventory, read_inventory
from reconciler.cluster.observed import ClusterObserved, Remembered
from reconciler.cluster.plan import ClusterPolicy
from reconciler.cluster.rollout.additions import NO_ADDITIONS, Additions
from reconciler.cluster.rollout.last_good import ServiceRecord, read_secret
from reconciler.host.plan import make_plan as plan_host
from reconciler.host.rollout import inputs as host_inputs
from reconciler.host.rollout import isolation as host_isolation
from reconciler.model import (
    Action,
    ApplyObject,
    DeleteObject,
    DeletionRules,
    Desired,
    DesiredObject,
    DesiredState,
    Health,
    HealthStatus,
    Holds,
    KeepLastGood,
    KeepQuarantines,
    KubeObject,
    NoteTry,
    ObjectId,
    Origin,
    Plan,
    Quarantine,
    ReasonCode,
    Reject,
    ServiceId,
    Start,
    StopService,
    Unreachable,
    WriteInventory,
    progress,
)
from tests.cluster.objects.parts import live, ours
from tests.support.simulation import PATIENCE, Host, state

T = TypeVar("T")
Breakable = tuple[Any, str]
"""A module and a function of it that is given one service at a time."""


class Wing(ABC):
    """A target. Versions are those of `tests.support.simulation`: `good…` serves, `crash…` dies while it starts."""

    breakable: ClassVar[tuple[Breakable, ...]]

    def git(self, *services: Desired, **more: Any) -> DesiredState:
        """What git has."""
        return state(*services, **more)

    def converge(self, git: DesiredState, rules: DeletionRules | None = None) -> Plan:
        """Passes until nothing is left to do. The last plan."""
        for _ in range(120):
            plan = self.step(git, rules or DeletionRules())
            if not plan.actions and plan.look_again_at is None:
                break
        return plan

    @abstractmethod
    def step(self, git: DesiredState, rules: DeletionRules) -> Plan:
        """One pass, and a while."""

    @abstractmethod
    def plan(self, git: DesiredState, *suspended: ServiceId, mixed: random.Random | None = None) -> Plan:
        """What would be done next; with all answers in another order, if `mixed`."""

    @abstractmethod
    def unreachable(self, git: DesiredState) -> Plan:
        """The plan while the target does not answer."""

    @abstractmethod
    def runs(self) -> dict[str, str]:
        """Of each service that is there: the version."""

    @abstractmethod
    def fail(self, name: str) -> None:
        """From now on, what runs of a service crashes."""

    @abstractmethod
    def begun(self) -> list[tuple[str, str]]:
        """Every version that was started or applied so far: service and version."""

    @property
    @abstractmethod
    def quarantines(self) -> dict[tuple[ServiceId, str], Quarantine]:
        """Digests that failed, by service and digest."""


def _mixed(shuffler: random.Random | None, items: Iterable[T]) -> list[T]:
    found = list(items)
    if shuffler is not None:
        shuffler.shuffle(found)
    return found


class OnHost(Wing):
    breakable = ((host_inputs, "standing"), (host_inputs, "reason_to_stay"), (host_isolation, "phase_of"))

    def __init__(self) -> None:
        self.host = Host()

    def step(self, git: DesiredState, rules: DeletionRules) -> Plan:
        plan = self.host.step(git, rules=rules)
        self.host.now += 0.5
        return plan

    def plan(self, git: DesiredState, *suspended: ServiceId, mixed: random.Random | None = None) -> Plan:
        seen, holds = self.host.observe(), replace(self.host.holds(git, *suspended), deletions=DeletionRules())
        seen = replace(
            seen,
            replicas=tuple(_mixed(mixed, seen.replicas)),
            owned=dict(_mixed(mixed, seen.owned.items())),
            routes=dict(_mixed(mixed, seen.routes.items())),
        )
        return plan_host(replace(git, services=tuple(_mixed(mixed, git.services))), seen, holds, PATIENCE)

    def unreachable(self, git: DesiredState) -> Plan:
        return plan_host(git, Unreachable("host", 1.0, "no answer"), Holds(), PATIENCE)

    def runs(self) -> dict[str, str]:
        alive = [one for one in self.host.observe().replicas if one.alive and one.draining_at is None]
        return {one.service.name: one.digest.partition("-")[0] for one in alive}

    def fail(self, name: str) -> None:
        self.host.broken |= {one.digest for one in self.host.replicas.values() if one.service.name == name}

    def begun(self) -> list[tuple[str, str]]:
        starts = (one for one in self.host.log if isinstance(one, Start))
        return [(one.replica.service.name, one.digest.partition("-")[0]) for one in starts]

    @property
    def quarantines(self) -> dict[tuple[ServiceId, str], Quarantine]:
        return self.host.quarantines


_START = 1_790_000_000.0


@dataclass
class OnCluster(Wing):
    """An API server that applies as the real one does, with a KServe whose pods start in no time."""

    breakable = (
        (cluster_plan, "decide"),
        (cluster_plan, "compare"),
        (cluster_plan, "options_of"),
        (cluster_pruning, "_step"),
        (cluster_prune, "_reason_to_keep"),
    )
    now: float = _START
    live: dict[ObjectId, KubeObject] = field(default_factory=dict)
    inventory: ClusterInventory = field(default_factory=lambda: ClusterInventory("inventory", "reconciler", "prod"))
    remembered: dict[ObjectId, Remembered] = field(default_factory=dict)
    records: dict[ServiceId, ServiceRecord] = field(default_factory=dict)
    failed: dict[tuple[ServiceId, str], Quarantine] = field(default_factory=dict)
    applied: dict[ObjectId, tuple[str, float]] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    unknown: dict[tuple[str, str], str] = field(default_factory=dict)
    log: list[tuple[str, str]] = field(default_factory=list)

    def git(self, *services: Desired, **more: Any) -> DesiredState:
        usable = tuple(_inference_service(one) for one in services if not one.problems)
        return replace(state(*services, **more), target="prod", objects=usable)

    def step(self, git: DesiredState, rules: DeletionRules) -> Plan:
        plan = cluster_plan.make_plan(git, self._seen(git), self._holds(rules), ClusterPolicy())
        for action in plan.actions:
            self._perform(action)
        self.now += 20
        return plan

    def plan(self, git: DesiredState, *suspended: ServiceId, mixed: random.Random | None = None) -> Plan:
        git = replace(git, services=tuple(_mixed(mixed, git.services)), objects=tuple(_mixed(mixed, git.objects)))
        holds = self._holds(DeletionRules(), *suspended)
        return cluster_plan.make_plan(git, self._seen(git, mixed), holds, ClusterPolicy())

    def unreachable(self, git: DesiredState) -> Plan:
        return cluster_plan.make_plan(git, Unreachable("prod", 1.0, "no answer"), Holds(), ClusterPolicy())

    def runs(self) -> dict[str, str]:
        return {one.name: _version(body) for one, body in self.live.items() if one.kind == "InferenceService"}

    def fail(self, name: str) -> None:
        self.broken.add(name)

    def begun(self) -> list[tuple[str, str]]:
        return self.log

    @property
    def quarantines(self) -> dict[tuple[ServiceId, str], Quarantine]:
        return self.failed

    def _holds(self, rules: DeletionRules, *suspended: ServiceId) -> Holds:
        return Holds(suspended=frozenset(map(str, suspended)), quarantines=dict(self.failed), deletions=rules)

    def _seen(self, git: DesiredState, mixed: random.Random | None = None) -> ClusterObserved:
        services = [one for one in self.live if one.kind == "InferenceService"]
        inventory = replace(self.inventory, members=dict(_mixed(mixed, self.inventory.members.items())))
        return ClusterObserved(
            "prod",
            self.now,
            wanted=git.objects,
            unknown=self.unknown,
            live=dict(_mixed(mixed, self.live.items())),
            inventory=inventory,
            remembered=dict(_mixed(mixed, self.remembered.items())),
            records=dict(_mixed(mixed, self.records.items())),
            health={ServiceId(one.namespace, one.name): self._health(one) for one in _mixed(mixed, services)},
        )

    def _health(self, one: ObjectId) -> ServingHealth:
        version, since = self.applied[one]
        if version.startswith("crash") or one.name in self.broken:
            problem = Problem(ReasonCode.CRASHED, "its container crashed", Fault.COMMIT)
            health = Health(HealthStatus.DEGRADED, progress(problem.code, problem.message))
            return ServingHealth(health, is_acted_on=True, desired=1, problem=problem, crashes=1)
        health = Health(HealthStatus.HEALTHY, progress(ReasonCode.SERVING, "1 replica serves"))
        return ServingHealth(health, is_acted_on=True, serving=1, ready=1, desired=1, ready_since=since)

    def _perform(self, action: Action) -> None:
        match action:
            case WriteInventory(body=body):
                self.inventory = read_inventory("inventory", "reconciler", "prod", body)
            case ApplyObject(wanted=git, additions=additions):
                self._apply(git, additions if isinstance(additions, Additions) else NO_ADDITIONS)
            case DeleteObject(object=one, uid=uid):
                assert self.live.pop(one)["metadata"]["uid"] == uid
            case KeepLastGood(service=service, record=record):
                self.records[service] = read_secret(record)
                # As the loop does: git has moved on.
                self.failed = {key: each for key, each in self.failed.items() if key[0] != service}
            case NoteTry(service=service, record=record) | KeepQuarantines(service=service, record=record):
                self.records[service] = read_secret(record)
            case Reject(quarantine=failed):
                self.failed[failed.service, failed.digest] = failed
            case _:
                assert isinstance(action, StopService), action

    def _apply(self, git: DesiredObject, additions: Additions) -> None:
        assert git.id in self.inventory.members, "applied what nobody wrote down as ours"
        rules, before = Rules((), self.inventory.applyset), self.live.get(git.id)
        body: Any = applied_body(git, before, rules)
        uid = before["metadata"]["uid"] if before else f"uid {git.id} {self.now}"
        self.live[git.id] = live(body, ours(body), uid=uid, version=f"{self.now:g}")
        self.remembered[git.id] = Remembered(applied(git, self.live[git.id], rules), additions, self.now)
        if git.service is not None:
            self.applied[git.id] = (_version(body), self.now)
            self.log.append((git.id.name, _version(body)))


def _version(body: KubeObject) -> str:
    return str(body["spec"]["predictor"]["model"]["args"][0])


def _inference_service(one: Desired) -> DesiredObject:
    version = one.digest.partition("-")[0]
    model = {"modelFormat": {"name": "vLLM"}, "runtime": "vllm", "args": [version]}
    body = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": one.id.name, "namespace": one.id.namespace},
        "spec": {"predictor": {"model": model}},
    }
    digest = hashlib.sha256(repr(body).encode()).hexdigest()[:16]
    return DesiredObject(ObjectId.of(body), one.origin, body, digest, service=one.id)


def serving_runtime(version: str) -> DesiredObject:
    """The runtime that all services name."""
    body = {
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "ServingRuntime",
        "metadata": {"name": "vllm", "namespace": "default"},
        "spec": {"containers": [{"name": "kserve-container", "image": f"vllm:{version}"}]},
    }
    return DesiredObject(ObjectId.of(body), Origin("vllm.yaml", 1), body, version)


WINGS: dict[str, type[Wing]] = {"host": OnHost, "cluster": OnCluster}
