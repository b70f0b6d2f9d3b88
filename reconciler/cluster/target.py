"""One Kubernetes cluster: what is observed of it, and what is done to it."""

from __future__ import annotations

import base64
import hmac
import json
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from reconciler.cluster.api.client import Client
from reconciler.cluster.api.connection import ClusterConnection
from reconciler.cluster.api.discovery import Resource
from reconciler.cluster.api.errors import ApiError, Conflict, Invalid, KindUnknown, NamespaceEnding, NotFound
from reconciler.cluster.api.lease import Election, Leadership, LeaseSettings
from reconciler.cluster.api.trimming import hashed
from reconciler.cluster.api.watch import KindState, Snapshot, WatchedKind, Watches
from reconciler.cluster.crash_logs import CrashLogs
from reconciler.cluster.first_token import FirstTokens
from reconciler.cluster.health.children import Children, children_of
from reconciler.cluster.health.children import Snapshot as Workloads
from reconciler.cluster.health.look import Expected, ServingHealth
from reconciler.cluster.health.memo import HealthMemo
from reconciler.cluster.health.problems import HealthLimits
from reconciler.cluster.memory import Memory
from reconciler.cluster.objects.compare import applied as applied_now
from reconciler.cluster.objects.compare import seen_again
from reconciler.cluster.objects.ignore import IgnoreRule, Rules, applied_body
from reconciler.cluster.objects.inventory import ClusterInventory, read_inventory
from reconciler.cluster.objects.owned import owned_fields
from reconciler.cluster.objects.owners import as_taken_over
from reconciler.cluster.observed import NO_ANSWERS, NO_CHILDREN, Answers, ClusterObserved, Remembered
from reconciler.cluster.preflight_job import PREFLIGHT
from reconciler.cluster.preflights import WATCHED, Preflights
from reconciler.cluster.rollout.additions import NO_ADDITIONS, Additions
from reconciler.cluster.rollout.gpus import allocatable, is_holding, requests_of
from reconciler.cluster.rollout.last_good import RECORD_OF, ServiceRecord, read_secret, secret_name
from reconciler.cluster.succession import Succession
from reconciler.config.settings import ClusterSettings
from reconciler.errors import ReconcileError, Retryable, Terminal
from reconciler.kserve.names import STOP
from reconciler.model import (
    GPU,
    ApplyObject,
    AskPreflight,
    DeleteObject,
    DesiredObject,
    DesiredState,
    KeepLastGood,
    KubeObject,
    NoteTry,
    ObjectId,
    Plan,
    PodFacts,
    Reason,
    ReasonCode,
    ServiceFacts,
    ServiceId,
    StopService,
    TargetAction,
    Unreachable,
    WriteInventory,
)
from reconciler.secrets import SecretStore

SERVICE = ("serving.kserve.io", "InferenceService")
_RUNTIMES = (("serving.kserve.io", "ServingRuntime"), ("serving.kserve.io", "ClusterServingRuntime"))
_WORKLOADS = (("apps", "Deployment"), ("apps", "ReplicaSet"), ("", "Node"), ("", "Pod"))
# Seconds that a first look waits until every kind has been listed.
_FIRST_LOOK = 20.0
_LOOK_AGAIN = 0.02
# With the two others it is refused if the object is not as it was read.
_TAKEN_OVER = ("managedFields", "resourceVersion", "uid")
# Namespaces whose events are watched one by one: each takes a thread.
_MOST_SPACES = 100
_UNSEEN = (KindState.UNKNOWN, KindState.PENDING)
# Objects that a plan asks about: each is a request.
_MOST_REHEARSED = 500


class ClusterTarget:
    """One cluster for one target. Acting on it needs its lease; observing does not."""

    def __init__(
        self,
        settings: ClusterSettings,
        applied: Path,
        wake: Callable[[], None],
        secrets: Callable[[], SecretStore],
        limits: HealthLimits,
        ignore: tuple[IgnoreRule, ...] = (),
    ) -> None:
        """Sends nothing yet. `applied` is the file that remembers what was applied. Raises SettingsError.

        `wake` is called from other threads, after something changed."""
        self.name = settings.name
        self._settings = settings
        self._wake = wake
        self._secrets = secrets
        self._ignore = ignore
        self._connection = connection_of(settings)
        self._client = Client(self._connection)
        self._watches = Watches(self._client, wake)
        self._memory = Memory(applied)
        self._refusals: Mapping[tuple[ObjectId, str], tuple[Reason, ...]] = {}
        self._health = HealthMemo(limits)
        self._logs = CrashLogs(self._client)
        self._tokens = FirstTokens(settings.probe, wake) if settings.probe else None
        self._preflights = (
            Preflights(self._client, applied.with_name("preflights.json")) if settings.preflight else None
        )
        self._election: Election | None = None
        self._succession = Succession(applied.with_name("leaders"))
        self._wanted: tuple[tuple[DesiredObject, ...], SecretStore, tuple[DesiredObject, ...]] | None = None
        self._version = ""
        self._has_looked = False

    # ------------------------------------------------------------ the port

    def lock(self, wait: float = 0.0) -> None:
        """Take part in the election of who acts, and wait so long for winning it: until then, nothing is done.

        Raises Terminal, naming the leader, where it was waited for in vain.
        """
        if self._election is None:
            names = LeaseSettings(self._settings.namespace, inventory_name(self.name), socket.gethostname())
            self._election = Election(self._connection, names, self._wake, self._succession.follow)

        ends = time.monotonic() + wait
        while time.monotonic() < ends and not self._election.leadership().is_ours:
            time.sleep(_LOOK_AGAIN)
        leadership = self._election.leadership()
        if wait and not leadership.is_ours and leadership.holder:
            raise Terminal(
                f"target {self.name}: {leadership.holder} acts for it: end that daemon, or have it sync by "
                "`reconciler sync` where it runs"
            )

    def close(self) -> None:
        """End threads. What serves keeps serving."""
        self._watches.close()
        if self._tokens is not None:
            self._tokens.close()
        if self._election is not None:
            self._election.close()
        self._succession.close()
        self._memory.save()
        self._client.close()

    def runs(self, service: ServiceId) -> bool:
        """Has this service pods here?"""
        return bool(self._pods_of(service))

    def logs(self, service: ServiceId, lines: int) -> tuple[str, ...]:
        """The last lines of each pod of a service; with several, each line is prefixed by its pod."""
        pods = self._pods_of(service)
        found = [(pod["metadata"]["name"], self._log_of(pod, lines)) for pod in pods]
        if len(found) == 1:
            return found[0][1]
        return tuple(f"{name}: {line}" for name, text in found for line in text)

    def restart(self, service: ServiceId, who: str) -> None:
        """KServe restarts pods; `kubectl rollout restart` does it."""
        name = f"deployment/{service.name}-predictor"
        raise Terminal(f"{service}: on a cluster, use `kubectl -n {service.namespace} rollout restart {name}`")

    # ------------------------------------------------------------ observe

    def observe(self, desired: DesiredState) -> ClusterObserved | Unreachable:
        """What is there now. Unreachable where the API server cannot be asked: nothing is guessed."""
        now = time.time()
        try:
            inventory = self._inventory()
            wanted = self._located(desired)
            self._watches.watch(self._kinds(wanted, inventory, desired))
            if not self._has_looked:
                self._has_looked = self._watches.wait_until_known(_FIRST_LOOK)
                self._version = self._version or self._client.server_version()
            return self._observed(desired, wanted, inventory, now)
        except ReconcileError as error:
            return Unreachable(self.name, now, str(error))

    def _observed(
        self, desired: DesiredState, wanted: tuple[DesiredObject, ...], inventory: ClusterInventory, now: float
    ) -> ClusterObserved:
        seen = self._watches.snapshot()
        kinds = {(one.id.group, one.id.kind) for one in wanted} | {(one.group, one.kind) for one in inventory.members}
        states = {kind: seen.status(*kind) for kind in kinds}
        pods, nodes = _of(seen, "", "Pod"), _of(seen, "", "Node")
        children = children_of(
            Workloads(
                services=_of(seen, *SERVICE),
                deployments=_of(seen, "apps", "Deployment"),
                replica_sets=_of(seen, "apps", "ReplicaSet"),
                pods=pods,
                events=_of(seen, "", "Event"),
            )
        )
        records = self._records(seen)
        ids = self._services(desired, inventory)
        wanted_by_id = {one.service: one for one in wanted if one.service is not None}
        remembered = self._remembered(wanted, seen)
        health = {}
        self._logs.begin_look()
        for one in ids:
            body = seen.get(ObjectId(*SERVICE, one.namespace, one.name))
            if body is not None:
                expected = _expected(wanted_by_id.get(one), remembered)
                found = children.get(one, NO_CHILDREN)
                health[one] = self._health.health(body, found, now, logs=self._logs.of(found.pods), expected=expected)
        self._health.keep_only(health)
        members = {*inventory.members, *(one.id for one in wanted)}
        leadership = self._election.leadership() if self._election else None
        self._memory.keep(frozenset(members))
        return ClusterObserved(
            target=self.name,
            at=now,
            version=self._version.removeprefix("v"),
            gpus=_total_gpus(nodes),
            free_gpus=_total_gpus(nodes) - _held_gpus(pods),
            services={
                one: _facts(found, children.get(one, NO_CHILDREN), records.get(one), seen, one)
                for one, found in health.items()
            },
            wanted=wanted,
            live=seen,
            inventory=inventory,
            absent=frozenset(kind for kind, status in states.items() if status.state is KindState.ABSENT),
            unknown={kind: status.why for kind, status in states.items() if status.state in _UNSEEN},
            pending=frozenset(kind for kind, status in states.items() if status.state is KindState.PENDING),
            remembered=remembered,
            records=records,
            health=health,
            children=children,
            nodes=nodes,
            pods=pods,
            refusals=self._refusals,
            speechless=self._speechless(desired, health, records),
            answers=self._answers(desired, wanted_by_id, seen, pods),
            is_leader=leadership is None or leadership.is_ours,
            leader=_leader(leadership) if leadership else "",
        )

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
        seen: Snapshot,
        pods: tuple[KubeObject, ...],
    ) -> Answers:
        if self._preflights is None:
            return NO_ANSWERS
        services = ((one, wanted[one.id]) for one in desired.services if one.id in wanted)
        return self._preflights.look_up(services, _of(seen, *WATCHED), pods)

    def _remembered(self, wanted: tuple[DesiredObject, ...], seen: Snapshot) -> Mapping[ObjectId, Remembered]:
        """What is remembered, of live objects that only others changed as they are now."""
        rules, known = self._rules(), self._memory.now()
        pairs = ((one, known[one.id].applied, seen.get(one.id)) for one in wanted if one.id in known)
        self._memory.confirm(
            {one.id: seen_again(applied, one, live, rules) for one, applied, live in pairs if live is not None}
        )
        return self._memory.now()

    def _kinds(
        self, wanted: Iterable[DesiredObject], inventory: ClusterInventory, desired: DesiredState
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
            version = next(iter(named)) if len(named) == 1 else ""
            yield WatchedKind(group, kind, version if self._resource(group, kind, version) else "")
        yield _watched(self._parent())
        if SERVICE in kinds or desired.services:
            spaces = {one.namespace for one in self._services(desired, inventory)}
            for each in (SERVICE, *_RUNTIMES, *_WORKLOADS):
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

    def _located(self, desired: DesiredState) -> tuple[DesiredObject, ...]:
        """Git's objects with the namespaces that their kinds have; the same while nothing changed."""
        store = self._secrets()
        known = self._wanted
        if known is None or known[0] is not desired.objects or known[1] is not store:
            made = tuple(self._where_it_belongs(one, store) for one in desired.objects)
            self._wanted = known = (desired.objects, store, made)
            if any(self._is_unplaced(one) for one in made):
                # Its kind is not served yet: once it is, it may have a namespace, or none.
                self._wanted = None
        return known[2]

    def _where_it_belongs(self, one: DesiredObject, store: SecretStore) -> DesiredObject:
        if one.is_encrypted:
            data = store.data(one.id.namespace, one.id.name)
            return one if data is None else self._opened(one, data)
        resource = self._resource(one.id.group, one.id.kind)
        if resource is None or resource.namespaced == bool(one.id.namespace):
            return one
        # The API server takes what names a namespace that its kind has not, and means the one that has none.
        namespace = self._settings.default_namespace if resource.namespaced else ""
        body = {**one.body, "metadata": {**one.body["metadata"], "namespace": namespace}}
        return replace(one, id=replace(one.id, namespace=namespace), body=body)

    def _opened(self, one: DesiredObject, data: Mapping[str, bytes]) -> DesiredObject:
        """With what stands for its values, as in live objects. The values themselves are only in what is sent."""
        values = {key: hashed(value) for key, value in _encoded(data).items()}
        text = json.dumps(sorted(values.items()))
        fingerprint = hmac.digest(self._memory.key, text.encode(), "sha256").hex()[:16]
        return replace(one, body={**one.body, "data": values}, hash=f"{one.hash}+{fingerprint}")

    def _is_unplaced(self, one: DesiredObject) -> bool:
        return self._resource(one.id.group, one.id.kind) is None

    def _resource(self, group: str, kind: str, version: str = "") -> Resource | None:
        """None: it is not served, or its group does not answer: one of an extension that is down must not stop the
        others. Its watch says why."""
        try:
            return self._client.resource(group, kind, version)
        except ReconcileError:
            return None

    def _inventory(self) -> ClusterInventory:
        """By the watch while we lead: then nobody else writes it. A stale one could not be written, by its version."""
        one = self._parent()
        is_ours = self._election is not None and self._election.leadership().is_ours
        seen = self._watches.current(_watched(one)) if is_ours else None
        found = seen.get(one) if seen else None
        if found is None:
            found = self._client.get(one)
        return read_inventory(one.name, one.namespace, self.name, found)

    def _parent(self) -> ObjectId:
        return ObjectId("", "ConfigMap", self._settings.namespace, inventory_name(self.name))

    def _records(self, seen: Snapshot) -> dict[ServiceId, ServiceRecord]:
        found = {}
        for _, secret in seen.of_kind("", "Secret"):
            metadata = secret["metadata"]
            if metadata["namespace"] == self._settings.namespace and RECORD_OF in (metadata.get("labels") or {}):
                try:
                    record = read_secret(secret)
                except ValueError:
                    # One that cannot be read is as good as none: it is written again.
                    continue
                # Of its own name alone: others may have records of the same services here.
                if metadata["name"] == secret_name(record.service, inventory_name(self.name)):
                    found[record.service] = record
        return found

    def _pods_of(self, service: ServiceId) -> list[KubeObject]:
        label = f"serving.kserve.io/inferenceservice={service.name}"
        resource = self._client.resource("", "Pod")
        return list(self._client.list(resource, service.namespace, label).items) if resource else []

    def _log_of(self, pod: KubeObject, lines: int) -> tuple[str, ...]:
        metadata = pod["metadata"]
        try:
            text = self._client.logs(metadata["namespace"], metadata["name"], "kserve-container", lines)
        except ReconcileError as error:
            return (str(error),)
        return tuple(text.splitlines())

    # ------------------------------------------------------------ perform

    def perform(self, action: TargetAction) -> None:
        """Do one action, idempotently. Raises Retryable or Terminal."""
        self._check_leadership()
        match action:
            case ApplyObject():
                self._apply(action)
            case AskPreflight() if self._preflights is not None:
                if self._election is None:
                    raise Retryable("the daemon validates the arguments in the cluster, once this is pushed")
                self._preflights.ask(action)
            case WriteInventory():
                self._see(self._client.apply(action.body, force=True))
            case KeepLastGood() | NoteTry():
                self._see(self._client.apply(action.record, force=True))
            case StopService():
                patch = {"metadata": {"uid": action.uid, "annotations": {STOP: "true"}}}
                self._see(self._client.patch(action.object, patch))
            case DeleteObject():
                if self._client.delete(action.object, action.uid) is None:
                    self._watches.drop(action.object, action.uid)
            case _:
                raise TypeError(f"{self.name} is a cluster: it runs no replicas itself")

    def rehearse(self, plan: Plan, pool: ThreadPoolExecutor) -> bool:
        """Apply what the plan applies, as a dry run. True: something is refused."""
        applies = [action for action in plan.actions if isinstance(action, ApplyObject)][:_MOST_REHEARSED]
        said = zip(applies, pool.map(self._try, applies), strict=True)
        self._refusals = {(one.object, one.wanted.hash): why for one, why in said if why}
        return bool(self._refusals)

    def _try(self, action: ApplyObject) -> tuple[Reason, ...]:
        try:
            wanted = self._with_secret(action.wanted)
            live = self._watches.snapshot().get(wanted.id)
            # What is to be taken over is not ours yet: then nobody's fields are in our way.
            force = action.force or (live is not None and owned_fields(live) is None)
            self._client.apply(applied_body(wanted, live, self._rules()), force=force, dry_run=True)
        except (NotFound, KindUnknown, NamespaceEnding):
            # What it needs may be part of the same plan.
            return ()
        except ApiError as error:
            return _refusal(error, action.wanted)
        except ReconcileError as error:
            return (Reason(ReasonCode.ADMISSION_DENIED, str(error), action.wanted.origin),)
        return ()

    def save(self) -> None:
        """Write down what was applied, once a pass."""
        self._memory.save()

    def _apply(self, action: ApplyObject) -> None:
        wanted = self._with_secret(action.wanted)
        rules = self._rules()
        live = self._watches.snapshot().get(wanted.id)
        if live is not None and owned_fields(live) is None:
            live = self._take_over(wanted.id)
        try:
            answer = self._client.apply(applied_body(wanted, live, rules), force=action.force)
        except (Conflict, Invalid) as error:
            raise _located_error(error, action.wanted) from None
        self._see(answer)
        additions = action.additions if isinstance(action.additions, Additions) else NO_ADDITIONS
        self._memory.note(wanted.id, Remembered(applied_now(action.wanted, answer, rules), additions, time.time()))

    def _take_over(self, one: ObjectId) -> KubeObject | None:
        """What the tools before us own of an object becomes ours: then the apply removes what they would leave behind.

        None: it is gone. Raises Outdated where a controller wrote to it just now.
        """
        live = self._client.get(one)
        if live is None or owned_fields(live) is not None:
            return live
        metadata = as_taken_over(live)["metadata"]
        return self._client.patch(one, {"metadata": {key: metadata[key] for key in _TAKEN_OVER}})

    def _with_secret(self, wanted: DesiredObject) -> DesiredObject:
        if not wanted.is_encrypted:
            return wanted
        data = self._secrets().data(wanted.id.namespace, wanted.id.name)
        if data is None:
            raise Retryable(f"{wanted.origin}: {wanted.id} cannot be opened now; nothing of it is changed")
        return replace(wanted, body={**wanted.body, "data": _encoded(data)})

    def _rules(self) -> Rules:
        own, name = self._settings.namespace, inventory_name(self.name)
        return Rules(self._ignore, ClusterInventory(name, own, self.name).applyset)

    def _see(self, found: KubeObject) -> None:
        self._watches.put(found)

    def _check_leadership(self) -> None:
        if self._election is None:
            return
        leadership = self._election.leadership()
        if not leadership.is_ours:
            raise Retryable(f"target {self.name}: this daemon may not act now: {_leader(leadership)}")


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


def inventory_name(target: str) -> str:
    """Of the ConfigMap that holds a target's inventory, and of its Lease."""
    return f"reconciler-{target}"


def _leader(leadership: Leadership) -> str:
    return f"{leadership.holder} acts" if leadership.holder else leadership.why


def _watched(one: ObjectId) -> WatchedKind:
    return WatchedKind(one.group, one.kind, namespace=one.namespace, name=one.name)


def connection_of(settings: ClusterSettings) -> ClusterConnection:
    """How the config says that a cluster is reached."""
    return ClusterConnection(
        kubeconfig=settings.kubeconfig,
        context=settings.context,
        impersonate=settings.impersonate,
        allow_exec=settings.allow_exec,
        qps=settings.qps,
        burst=settings.burst,
        timeout=settings.timeout,
        named=f"target {settings.name}",
    )


def _located_error(error: Conflict | Invalid, wanted: DesiredObject) -> ReconcileError:
    """The API server names fields; git's lines are known."""
    places = [f"{wanted.origin_of(each.path)}: {each.path}: {each.message}" for each in error.fields]
    text = "; ".join(places) if places else f"{wanted.origin}: {error}"
    return type(error)(text, error.fields, error.code)


def _refusal(error: ApiError, wanted: DesiredObject) -> tuple[Reason, ...]:
    if not error.fields:
        return (Reason(ReasonCode.ADMISSION_DENIED, str(error), wanted.origin),)
    return tuple(
        Reason(ReasonCode.ADMISSION_DENIED, f"{each.path}: {each.message}", wanted.origin_of(each.path))
        for each in error.fields
    )


def _of(seen: Snapshot, group: str, kind: str) -> tuple[KubeObject, ...]:
    return tuple(found for _, found in seen.of_kind(group, kind))


def _encoded(data: Mapping[str, bytes]) -> dict[str, str]:
    """As a Secret has it."""
    return {key: base64.b64encode(value).decode() for key, value in data.items()}


def _held_gpus(pods: Iterable[KubeObject]) -> int:
    return sum(requests_of(pod["spec"]).get(GPU, 0) // 1000 for pod in pods if is_holding(pod))


def _total_gpus(nodes: Iterable[KubeObject]) -> int:
    return sum(allocatable(node).get(GPU, 0) // 1000 for node in nodes)


def _facts(
    health: ServingHealth,
    children: Children,
    record: ServiceRecord | None,
    seen: Mapping[ObjectId, KubeObject],
    service: ServiceId,
) -> ServiceFacts:
    body: Mapping[str, Any] = seen.get(ObjectId(*SERVICE, service.namespace, service.name)) or {}
    good = record.last_good if record else None
    return ServiceFacts(
        url=health.url,
        ready=health.ready,
        desired=health.desired,
        gpus=_held_gpus(children.pods),
        live_digest=good.digest if good and health.serving else "",
        origin=good.origin if good else ServiceFacts().origin,
        pods=tuple(_pod(pod) for pod in sorted(children.pods, key=lambda pod: str(pod["metadata"]["name"]))),
        status=body.get("status") or {},
    )


def _pod(pod: KubeObject) -> PodFacts:
    status: Mapping[str, Any] = pod.get("status") or {}
    conditions = {each.get("type"): each.get("status") for each in status.get("conditions") or ()}
    return PodFacts(
        name=pod["metadata"]["name"],
        phase=str(status.get("phase") or "Pending"),
        node=str(pod["spec"].get("nodeName") or ""),
        ready=conditions.get("Ready") == "True",
        gpus=requests_of(pod["spec"]).get(GPU, 0) // 1000,
        message=str(status.get("message") or ""),
    )
