"""One Kubernetes cluster: what is observed of it, and what is done to it."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from reconciler.cluster.api.client import Client
from reconciler.cluster.api.connection import ClusterConnection
from reconciler.cluster.api.lease import Election, LeaseSettings
from reconciler.cluster.api.watch import Watches
from reconciler.cluster.applying import Applying
from reconciler.cluster.first_token import FirstTokens
from reconciler.cluster.health.problems import HealthLimits
from reconciler.cluster.memory import Memory
from reconciler.cluster.objects.ignore import IgnoreRule, Rules
from reconciler.cluster.objects.inventory import ClusterInventory, inventory_name
from reconciler.cluster.observed import ClusterObserved
from reconciler.cluster.observer import Observer, leader_of
from reconciler.cluster.placing import Placing
from reconciler.cluster.preflights import PreflightJobs
from reconciler.cluster.succession import Succession
from reconciler.config.settings import ClusterSettings
from reconciler.errors import ReconcileError, Retryable, Terminal
from reconciler.kserve.names import KSERVE_CONTAINER, SERVICE_LABEL, STOP
from reconciler.model import (
    ApplyObject,
    AskPreflight,
    DeleteObject,
    DesiredState,
    KeepLastGood,
    KeepQuarantines,
    KubeObject,
    NoteTry,
    Plan,
    ServiceId,
    StopService,
    TargetAction,
    Unreachable,
    WriteInventory,
)
from reconciler.secrets import SecretStore

_LOOK_AGAIN = 0.02


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
        self._connection = connection_of(settings)
        self._client = Client(self._connection)
        self._watches = Watches(self._client, wake)
        self._memory = Memory(applied)
        self._tokens = FirstTokens(settings.probe, wake) if settings.probe else None
        self._preflights = (
            PreflightJobs(self._client, applied.with_name("preflights.json")) if settings.preflight else None
        )
        self._election: Election | None = None
        self._succession = Succession(applied.with_name("leaders"))
        inventory = ClusterInventory(inventory_name(self.name), settings.namespace, self.name)
        rules = Rules(ignore, inventory.applyset)
        placing = Placing(self._client, settings.default_namespace, secrets, self._memory)
        self._applying = Applying(self._client, self._watches, self._memory, placing, rules)
        self._observer = Observer(
            settings,
            self._client,
            self._watches,
            self._memory,
            placing,
            rules,
            limits,
            self._tokens,
            self._preflights,
        )

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

    def observe(self, desired: DesiredState) -> ClusterObserved | Unreachable:
        """What is there now. Unreachable where the API server cannot be asked: nothing is guessed."""
        leadership = self._election.leadership() if self._election else None
        return self._observer.observe(desired, leadership, self._applying.refusals)

    def rehearse(self, plan: Plan, pool: ThreadPoolExecutor) -> bool:
        """Apply what the plan applies, as a dry run. True: something is refused."""
        return self._applying.rehearse(plan, pool)

    def save(self) -> None:
        """Write down what was applied, once a pass."""
        self._memory.save()

    def _pods_of(self, service: ServiceId) -> list[KubeObject]:
        label = f"{SERVICE_LABEL}={service.name}"
        resource = self._client.resource("", "Pod")
        return list(self._client.list(resource, service.namespace, label).items) if resource else []

    def _log_of(self, pod: KubeObject, lines: int) -> tuple[str, ...]:
        metadata = pod["metadata"]
        try:
            text = self._client.logs(metadata["namespace"], metadata["name"], KSERVE_CONTAINER, lines)
        except ReconcileError as error:
            return (str(error),)
        return tuple(text.splitlines())

    # ------------------------------------------------------------ perform

    def perform(self, action: TargetAction) -> None:
        """Do one action, idempotently. Raises Retryable or Terminal."""
        self._check_leadership()
        match action:
            case ApplyObject():
                self._applying.apply(action)
            case AskPreflight() if self._preflights is not None:
                if self._election is None:
                    raise Retryable("the daemon validates the arguments in the cluster, once this is pushed")
                self._preflights.ask(action)
            case WriteInventory():
                self._watches.put(self._client.apply(action.body, force=True))
            case KeepLastGood() | KeepQuarantines() | NoteTry():
                self._watches.put(self._client.apply(action.record, force=True))
            case StopService():
                patch = {"metadata": {"uid": action.uid, "annotations": {STOP: "true"}}}
                self._watches.put(self._client.patch(action.object, patch))
            case DeleteObject():
                if self._client.delete(action.object, action.uid) is None:
                    self._watches.drop(action.object, action.uid)
            case _:
                raise TypeError(f"{self.name} is a cluster: it runs no replicas itself")

    def _check_leadership(self) -> None:
        if self._election is None:
            return
        leadership = self._election.leadership()
        if not leadership.is_ours:
            raise Retryable(f"target {self.name}: this daemon may not act now: {leader_of(leadership)}")


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
