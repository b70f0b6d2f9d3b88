"""What is observed of one cluster: by watches, and by requests only where there is no watch yet."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeAlias

from reconciler.cluster.api.client import Client
from reconciler.cluster.api.lease import Leadership
from reconciler.cluster.api.watch import KindState, WatchedKind, Watches, WatchSnapshot
from reconciler.cluster.crash_logs import CrashLogs
from reconciler.cluster.first_token import FirstTokens
from reconciler.cluster.health.children import Children, WorkloadObjects, children_of
from reconciler.cluster.health.look import Expected, ServingHealth
from reconciler.cluster.health.memo import HealthMemo
from reconciler.cluster.health.problems import HealthLimits
from reconciler.cluster.memory import Memory
from reconciler.cluster.objects.compare import seen_again
from reconciler.cluster.objects.ignore import Rules
from reconciler.cluster.objects.inventory import ClusterInventory, inventory_id, read_inventory
from reconciler.cluster.observed import (
    NO_ANSWERS,
    NO_CHILDREN,
    RUNTIMES,
    SERVICE,
    ClusterObserved,
    EngineAnswers,
    Remembered,
)
from reconciler.cluster.placing import Placing
from reconciler.cluster.preflight_job import PREFLIGHT
from reconciler.cluster.preflights import WATCHED, PreflightJobs
from reconciler.cluster.rollout.last_good import RECORD_OF, ServiceRecord, read_secret, secret_name
from reconciler.cluster.service_facts import facts_of, gpus_of_nodes, held_by_node
from reconciler.config.settings import ClusterSettings
from reconciler.errors import ReconcileError
from reconciler.model import DesiredObject, DesiredState, KubeObject, ObjectId, Reason, ServiceId, Unreachable

Refusals: TypeAlias = Mapping[tuple[ObjectId, str], tuple[Reason, ...]]
_WORKLOADS = (("apps", "Deployment"), ("apps", "ReplicaSet"), ("", "Node"), ("", "Pod"))
_UNSEEN = (KindState.UNKNOWN, KindState.PENDING)
# Seconds that a first look waits until every kind has been listed.
_FIRST_LOOK = 20.0
# Namespaces whose events are watched one by one: each takes a thread.
_MOST_SPACES = 100


class Observer:
    """Of one target."""

    def __init__(
        self,
        settings: ClusterSettings,
        client: Client,
        watches: Watches,
        memory: Memory,
        placing: Placing,
        rules: Rules,
        limits: HealthLimits,
        tokens: FirstTokens | None,
        preflights: PreflightJobs | None,
    ) -> None:
        self._name = settings.name
        self._settings = settings
        self._client = client
        self._watches = watches
        self._memory = memory
        self._placing = placing
        self._rules = rules
        self._tokens = tokens
        self._preflights = preflights
        self._health = HealthMemo(limits)
        self._logs = CrashLogs(client)
        self._inventory_id = inventory_id(settings.namespace, settings.name)
        self._version = ""
        self._versions: dict[tuple[str, str], str] = {}
        self._has_looked = False
        self._unpacked: dict[ObjectId, tuple[KubeObject, ServiceRecord | None]] = {}

    def observe(
        self, desired: DesiredState, leadership: Leadership | None, refusals: Refusals
    ) -> ClusterObserved | Unreachable:
        """What is there now. Unreachable where the API server cannot be asked: nothing is guessed."""
        now = time.time()
        try:
            inventory = self._inventory(leadership)
            wanted = self._placing.placed(desired)
            ids = self._services(desired, inventory)
            self._watches.watch(self._kinds(wanted, inventory, ids))
            if not self._has_looked:
                self._has_looked = self._watches.wait_until_known(_FIRST_LOOK)
                self._version = self._version or self._client.server_version()
            return self._observed(desired, wanted, inventory, ids, now, leadership, refusals)
        except ReconcileError as error:
            return Unreachable(self._name, now, str(error))

    def _observed(
        self,
        desired: DesiredState,
        wanted: tuple[DesiredObject, ...],
        inventory: ClusterInventory,
        ids: list[ServiceId],
        now: float,
        leadership: Leadership | None,
        refusals: Refusals,
    ) -> ClusterObserved:
        seen = self._watches.snapshot()
        kinds = {(one.id.group, one.id.kind) for one in wanted} | {(one.group, one.kind) for one in inventory.members}
        if SERVICE in kinds:
            kinds |= set(_WORKLOADS)
        states = {kind: seen.status(*kind) for kind in kinds}
        pods, nodes = _of(seen, "", "Pod"), _of(seen, "", "Node")
        held = held_by_node(pods)
        node_gpus = gpus_of_nodes(nodes, held)
        total = sum(one.total for one in node_gpus.values())
        children = children_of(
            WorkloadObjects(
                services=_of(seen, *SERVICE),
                deployments=_of(seen, "apps", "Deployment"),
                replica_sets=_of(seen, "apps", "ReplicaSet"),
                pods=pods,
                events=_of(seen, "", "Event"),
            )
        )
        records = self._records(seen)
        wanted_by_id = {one.service: one for one in wanted if one.service is not None}
        remembered = self._remembered(wanted, seen)
        expected = {one: _expected(wanted_by_id.get(one), remembered) for one in ids}
        skew = self._client.transport.clock.skew
        health = self._healths(expected, children, seen, now + skew)
        speechless = self._speechless(desired, health, records)
        self._memory.keep(frozenset({*inventory.members, *(one.id for one in wanted)}))
        return ClusterObserved(
            target=self._name,
            at=now,
            version=self._version.removeprefix("v"),
            gpus=total,
            free_gpus=total - held.total(),
            node_gpus=node_gpus,
            services={
                one: facts_of(found, children.get(one, NO_CHILDREN), records.get(one), seen, one, speechless.get(one))
                for one, found in health.items()
            },
            quarantines=tuple(each for record in records.values() for each in record.quarantines),
            wanted=wanted,
            live=seen,
            inventory=inventory,
            absent=frozenset(kind for kind, status in states.items() if status.state is KindState.ABSENT),
            unknown={kind: status.why for kind, status in states.items() if status.state in _UNSEEN},
            pending=frozenset(kind for kind, status in states.items() if status.state is KindState.PENDING),
            skew=skew,
            remembered=remembered,
            records=records,
            health=health,
            children=children,
            nodes=nodes,
            pods=pods,
            refusals=refusals,
            speechless=speechless,
            answers=self._answers(desired, wanted_by_id, seen, pods),
            is_leader=leadership is None or leadership.is_ours,
            leader=leader_of(leadership) if leadership else "",
        )

    def _healths(
        self,
        expected: Mapping[ServiceId, Expected | None],
        children: Mapping[ServiceId, Children],
        seen: WatchSnapshot,
        clock: float,
    ) -> dict[ServiceId, ServingHealth]:
        """Of each service that is there. `clock` is the API server's."""
        health = {}
        self._logs.begin_look()
        for one, rendered in expected.items():
            body = seen.get(ObjectId(*SERVICE, one.namespace, one.name))
            if body is not None:
                found = children.get(one, NO_CHILDREN)
                health[one] = self._health.health(body, found, clock, logs=self._logs.of(found.pods), expected=rendered)
        self._health.keep_only(health)
        return health

    def _speechless(
        self,
        desired: DesiredState,
        health: Mapping[ServiceId, ServingHealth],
        records: Mapping[ServiceId, ServiceRecord],
    ) -> dict[ServiceId, str]:
        """Of services that are ready and have not proved themselves yet."""
        if self._tokens is None:
            return {}
        unproven = (
            (one, found.generation)
            for one in desired.services
            if (found := health.get(one.id)) is not None
            and found.ready_since is not None
            and not (one.id in records and records[one.id].is_proven(one.digest))
        )
        return self._tokens.look_up(unproven)

    def _answers(
        self,
        desired: DesiredState,
        wanted: Mapping[ServiceId, DesiredObject],
        seen: WatchSnapshot,
        pods: tuple[KubeObject, ...],
    ) -> EngineAnswers:
        if self._preflights is None:
            return NO_ANSWERS
        services = ((one, wanted[one.id]) for one in desired.services if one.id in wanted)
        return self._preflights.look_up(services, _of(seen, *WATCHED), pods)

    def _remembered(self, wanted: tuple[DesiredObject, ...], seen: WatchSnapshot) -> Mapping[ObjectId, Remembered]:
        """What is remembered, of live objects that only others changed as they are now."""
        rules, known = self._rules, self._memory.now()
        pairs = ((one, known[one.id].applied, seen.get(one.id)) for one in wanted if one.id in known)
        self._memory.confirm(
            {one.id: seen_again(applied, one, live, rules) for one, applied, live in pairs if live is not None}
        )
        return self._memory.now()

    def _kinds(
        self, wanted: Iterable[DesiredObject], inventory: ClusterInventory, ids: list[ServiceId]
    ) -> Iterator[WatchedKind]:
        """Those of git and of what is ours; and where services are, what runs for them and where it may run."""
        own = self._settings.namespace
        versions: dict[tuple[str, str], set[str]] = {(one.group, one.kind): set() for one in inventory.members}
        for one in wanted:
            version = one.api_version.rpartition("/")[2]
            versions.setdefault((one.id.group, one.id.kind), set()).add(version)
        kinds = versions.keys()
        for (group, kind), named in versions.items():
            # As git writes it, so that what we applied and what we see of it are alike. Of a version that is not
            # served nothing can be seen, and what is there in another one is not gone.
            if len(named) == 1:
                self._versions[group, kind] = next(iter(named))
            # What git names no more is watched as before: another watch would have to list everything first.
            version = self._versions.get((group, kind), "") if len(named) < 2 else ""
            yield WatchedKind(group, kind, version if self._placing.resource(group, kind, version) else "")
        yield _watched(self._inventory_id)
        if ids:
            spaces = {one.namespace for one in ids}
            for each in (SERVICE, *RUNTIMES, *_WORKLOADS):
                if each not in kinds:
                    yield WatchedKind(*each)
            yield from (
                WatchedKind("", "Event", namespace=s) for s in (spaces if len(spaces) <= _MOST_SPACES else [""])
            )
            if self._preflights is not None:
                yield WatchedKind(*WATCHED, labels=PREFLIGHT)
            if ("", "Secret") not in kinds:
                yield WatchedKind("", "Secret", namespace=own, labels=RECORD_OF)

    def _services(self, desired: DesiredState, inventory: ClusterInventory) -> list[ServiceId]:
        members = (one for one in inventory.members if (one.group, one.kind) == SERVICE)
        named = {ServiceId(one.namespace, one.name) for one in members}
        return sorted(named | {one.id for one in desired.services})

    def _inventory(self, leadership: Leadership | None) -> ClusterInventory:
        """By the watch while we lead: then nobody else writes it. A stale one could not be written, by its version."""
        one = self._inventory_id
        is_ours = leadership is not None and leadership.is_ours
        seen = self._watches.current(_watched(one)) if is_ours else None
        found = seen.get(one) if seen else None
        if found is None:
            found = self._client.get(one)
        return read_inventory(one.name, one.namespace, self._name, found)

    def _records(self, seen: WatchSnapshot) -> dict[ServiceId, ServiceRecord]:
        """Each Secret is unpacked once: the watch tells of a change by another object."""
        known, self._unpacked = self._unpacked, {}
        for one, secret in seen.of_kind("", "Secret"):
            labels = secret["metadata"].get("labels") or {}
            if one.namespace == self._settings.namespace and RECORD_OF in labels:
                before = known.get(one)
                self._unpacked[one] = before if before and before[0] is secret else (secret, _record_in(secret))
        # Of its own name alone: others may have records of the same services here.
        return {
            record.service: record
            for one, (_, record) in self._unpacked.items()
            if record is not None and one.name == secret_name(record.service, self._inventory_id.name)
        }


def _expected(git: DesiredObject | None, remembered: Mapping[ObjectId, Remembered]) -> Expected | None:
    """What KServe should have rendered of what was applied last; None: that is not known."""
    known = remembered.get(git.id) if git else None
    if git is None or git.rendered is None or known is None or known.additions.runtime or not known.at:
        return None
    if not known.applied.body.startswith(git.hash):
        # Git has moved on, and what is applied is another version.
        return None
    runtime = remembered.get(git.rendered.runtime) if git.rendered.runtime else None
    since = max(known.at, runtime.at if runtime else 0.0)
    return Expected(git.rendered.pod, known.additions.arguments, since)


def _record_in(secret: KubeObject) -> ServiceRecord | None:
    """None: it cannot be read, which is as good as none: it is written again."""
    try:
        return read_secret(secret)
    except ValueError:
        return None


def leader_of(leadership: Leadership) -> str:
    """Who acts, for people."""
    return f"{leadership.holder} acts" if leadership.holder else leadership.why


def _watched(one: ObjectId) -> WatchedKind:
    return WatchedKind(one.group, one.kind, namespace=one.namespace, name=one.name)


def _of(seen: WatchSnapshot, group: str, kind: str) -> tuple[KubeObject, ...]:
    return tuple(found for _, found in seen.of_kind(group, kind))
