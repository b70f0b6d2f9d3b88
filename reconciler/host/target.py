"""One host: what is observed of it, and what is done to it. The same for child processes and for units."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import assert_never

from reconciler.config import settings as config
from reconciler.engines.environment import find_engine
from reconciler.engines.limits import Lacks
from reconciler.engines.preflight import PreflightRunner
from reconciler.errors import ReconcileError, Retryable
from reconciler.fault_isolation import Faults
from reconciler.host.backends import PROXY, make_backend
from reconciler.host.checks.fits import NOTHING, Fits, Machine, Reserved
from reconciler.host.checks.preflights import Preflights, running_digests
from reconciler.host.checks.start_checks import StartChecks, record_of
from reconciler.host.clock import Clock
from reconciler.host.gpus import usage
from reconciler.host.gpus.devices import Gpus
from reconciler.host.inventory import Inventory, ReplicaRecord, TargetLock, UnreadableRecord
from reconciler.host.probing.engine_probes import EngineProbes, ProbeTargets
from reconciler.host.probing.liveness import LivenessLimits, Witness
from reconciler.host.probing.probing import Probes
from reconciler.host.probing.proxy import ProxyMonitor
from reconciler.host.probing.replicas import Pauses, Replicas
from reconciler.host.process.port_guard import PortGuard, PortHolds
from reconciler.host.records import Records
from reconciler.host.routing.envoy import EnvoyProxy
from reconciler.host.staging.stager import Stager
from reconciler.host.translator import KeptValues, Translator
from reconciler.host.workload import ProposedWorkloads, Workloads
from reconciler.model import (
    AskPreflight,
    ClusterAction,
    Desired,
    Drain,
    EnsureProxy,
    Forget,
    GpuUse,
    MarkReady,
    NoteCrash,
    Observed,
    Owned,
    Promote,
    ProxyBreak,
    Reattach,
    Relabel,
    Remove,
    Repair,
    ServiceId,
    SetRoutes,
    Stage,
    StageImage,
    Start,
    Stop,
    TakeOwnership,
    TargetAction,
    Undrain,
    Unreachable,
    Unstage,
)
from reconciler.secrets import NO_SECRETS, SecretStore
from reconciler.system import procfs


class HostTarget:
    """A host in one folder. Acting on it needs its lock; observing does not."""

    def __init__(
        self,
        settings: config.HostSettings,
        folder: Path,
        wake: Callable[[], None],
        secrets: Callable[[], SecretStore] = lambda: NO_SECRETS,
        closed: tuple[Path, ...] = (),
        reserved: Reserved = lambda: NOTHING,
        take_refused: Callable[[str, Mapping[str, int], int], None] = lambda *_: None,
        cache: Path | None = None,
        *,
        is_proposed: bool = False,
    ) -> None:
        """Raises SettingsError. `wake` is called from other threads whenever a pass may have something to do.

        `closed` are places outside the target's own folder that no service may name. `reserved` tells what others hold.
        `take_refused` gets now and then which process of the proxy answered how many requests with 503, by service,
        and how many for paths that are not open with 403.
        What engines say when they are asked is kept in `cache`, by default the target's own folder. `is_proposed`: what
        is wanted is not accepted yet, so that nothing of it may run: engines only parse its arguments.
        """
        # An observer may be another user than the folder's owner.
        cache, closed = cache or folder, (*closed, folder.absolute(), config.DEFAULT_PATH.parent)
        self.name = settings.name
        self._settings = settings
        self._wake = wake
        self._inventory = Inventory(folder)
        self._lock = TargetLock(folder)
        self._recovered = False
        self._closed = False
        self._clock = Clock()
        pauses = Pauses(self._clock.now())
        self._gpus = gpus = Gpus(settings.gpus)
        self._machine = Machine(settings, gpus)
        self._reserved = reserved
        self._translator = Translator(settings, KeptValues(self._inventory.replicas).read)
        hidden = (*closed, *settings.volumes.values())
        backend = make_backend(settings, self._inventory, gpus, hidden)
        self._supervisor, self._images = backend.supervisor, backend.images
        self._prepare_shutdown = backend.prepare_shutdown
        self._proxy = EnvoyProxy(folder / PROXY, settings.routing, backend.spawn_proxy)
        self._stager = Stager(settings.storage, folder / "models", backend.fetcher, secrets, wake)
        find_image = self._images.find if self._images else lambda _: None
        lacks = Lacks(cache / "preflight")
        workloads = ProposedWorkloads if is_proposed else Workloads
        self._workloads = workloads(settings, cache, secrets, self._stager, closed, lacks, find_image)
        runner = PreflightRunner(cache / "preflight", wake, begin=backend.begin_preflight, lacks=lacks)
        checks = None if is_proposed else self._start_checks(closed)
        self._preflights = Preflights(self._workloads, runner, wake, Fits(folder / "fit", self._machine), checks)
        self._guard = PortGuard(self._supervisor.owns, PortHolds())
        self._subjects = ProbeTargets(self._workloads.api_key, self._guard)
        limits = LivenessLimits(settings.liveness.interval, settings.liveness.timeout)
        witness = Witness()
        self._probes = Probes(EngineProbes(self._proxy), wake, limits, witness)
        self._replicas = Replicas(self._supervisor, self._probes, pauses, settings.rollout.ready_timeout)
        self._records = Records(
            self.name, self._inventory, self._supervisor, self._translator, self._preflights, self._clock
        )
        self._proxy_monitor = ProxyMonitor(self._proxy, self._supervisor, self._probes, witness, wake, take_refused)

    def _start_checks(self, closed: tuple[Path, ...]) -> StartChecks:
        reader, drain_timeout = self._settings.replica_user or "", self._settings.rollout.drain_timeout
        return StartChecks(self._workloads, self._supervisor, drain_timeout, reader, closed)

    def lock(self, wait: float = 0.0) -> None:
        """Take over this host. Raises Terminal, naming the holder, while another process has it."""
        if self._closed:
            raise Retryable(f"target {self.name}: already released; another process manages it")
        if self._lock.is_held:
            self._lock.check()
        else:
            self._lock.acquire()
            self._clock.watch()
            self._supervisor.subscribe(self._wake)
            self._stager.subscribe()
            self._proxy_monitor.start()
        if not self._recovered:
            try:
                self._supervisor.recover()
                self._proxy_monitor.follow()
                self._prepare_shutdown()
                self._records.complete()
                self._recovered = True
            except UnreadableRecord:
                # Every pass says so; nothing is done to this host until it is put right.
                return

    def close(self) -> None:
        """End threads. What serves keeps serving."""
        self._closed = True
        self._clock.close()
        self._probes.close()
        self._guard.keep(())
        self._proxy_monitor.close()
        self._preflights.close()
        self._supervisor.close()
        self._stager.close()
        self._lock.release()

    def logs(self, service: ServiceId, lines: int) -> tuple[str, ...]:
        """The last lines of each replica of a service; with several, each line is prefixed by its replica."""
        replicas = [record.id for record in self._inventory.replicas() if record.id.service == service]
        found = [(replica, self._supervisor.logs(replica, lines)) for replica in replicas]
        if len(found) == 1:
            return found[0][1]
        return tuple(f"{replica.serial}: {line}" for replica, lines in found for line in lines)

    def gpu_use(self) -> Mapping[str, GpuUse]:
        """What is free of the GPUs now, by UUID, whether or not a replica has to start. Raises Retryable."""
        return usage.look(self._gpus, self._supervisor.is_ours, Faults("looking at"))

    # ------------------------------------------------------------ observe

    def observe(self, wanted: tuple[Desired, ...]) -> Observed | Unreachable:
        """What is there now. Unreachable when a record, the GPUs or the disk cannot be read: nothing is guessed."""
        now, faults = self._clock.now(), Faults("looking at")
        try:
            self._lock.check()
            records = self._inventory.replicas()
            if not any(self._is_timed(record, now) for record in records):
                self._clock.follow()
                now = self._clock.now()
            owned = self._inventory.services()
            states = self._replicas.states(records, faults)
            reserved = self._reserved()
            ports = (*reserved.ports, *(record.lease.port for record in records))
            capacity = self._machine.capacity(ports)
            if usage.is_asked_for(wanted, records, states, faults):
                capacity = replace(capacity, gpu_use=usage.look(self._gpus, self._supervisor.is_ours, faults))
            capacity = usage.without(capacity, reserved.gpus)
            staging = self._stager.look()
            images = self._images.look(self._containers(wanted, owned, records, faults)) if self._images else {}
            outdated = self._translator.outdated(wanted, records, owned, faults)
        except ReconcileError as error:
            return Unreachable(self.name, now, str(error))
        self._probes.watch(self._subjects.of(records, states, faults))
        proxy = self._proxy.observe()
        self._proxy_monitor.follow()
        return Observed(
            target=self.name,
            at=now,
            replicas=self._replicas.all(records, states, proxy, now, faults),
            capacity=capacity,
            owned=owned,
            routes=proxy.applied,
            proxy_ready=proxy.ready,
            proxy_break=ProxyBreak.NONE if proxy.ready else self._proxy_monitor.found,
            staging=staging,
            images=images,
            outdated=outdated,
            faulty=faults.reasons,
            bugs=tuple(faults.bugs),
        )

    def preflight(self, wanted: tuple[Desired, ...], observed: Observed) -> Observed | Unreachable:
        """The same, with what is known of the desired specs: verdicts, running preflights, blockers."""
        restarts = {service: one.restarted_at for service, one in observed.owned.items() if one.restarted_at}
        try:
            known = self._preflights.look_up(wanted, running_digests(wanted, observed), restarts)
            if self._lock.is_held:
                # An observer deletes nothing.
                self._preflights.tidy(observed.owned, observed.replicas)
        except ReconcileError as error:
            return Unreachable(self.name, observed.at, str(error))
        return replace(
            observed, preflights=known.preflights, preflighting=frozenset(known.asking), blockers=known.blockers
        )

    def _containers(
        self,
        wanted: Iterable[Desired],
        owned: Mapping[ServiceId, Owned],
        records: Iterable[ReplicaRecord],
        faults: Faults,
    ) -> Iterator[str]:
        """The images that are needed here, and that podman runs."""
        named = {one.spec.image: one.id for one in wanted if one.spec is not None and one.replicas}
        named |= {one.promoted.spec.image: one.id for one in owned.values() if one.promoted is not None}
        named |= {record.spec.image: record.id.service for record in records}
        for image, service in sorted(named.items()):
            try:
                engine = find_engine(image, self._settings.engines)
            except Exception as error:
                faults.note(service, error)
                continue
            if engine is not None and engine.podman:
                yield image

    def _is_timed(self, record: ReplicaRecord, now: float) -> bool:
        """Does it wait for a moment in time?"""
        if record.ready_at is None or record.draining_at is not None or record.stopping_at is not None:
            return True
        return now - record.ready_at <= self._settings.rollout.min_ready

    # ------------------------------------------------------------ perform

    def perform(self, action: TargetAction) -> None:
        """Do one action, idempotently. Raises Retryable or Terminal."""
        if isinstance(action, AskPreflight):
            # Changes nothing, so that `plan` may ask while a daemon runs.
            self._preflights.ask(action)
            return
        if isinstance(action, ClusterAction):
            raise TypeError(f"{self.name} is a host: it has no objects")
        self.lock()
        match action:
            case EnsureProxy():
                self._proxy.ensure_running(action.replace)
                self._proxy_monitor.follow()
            case SetRoutes():
                self._proxy.apply(action.routes)
            case Stage():
                self._stager.stage(action)
            case StageImage():
                if self._images is not None:
                    self._images.stage(action.image)
            case Unstage():
                self._stager.unstage(action.key)
            case Start():
                self._start(action)
            case MarkReady() | Reattach() | Relabel() | Drain() | Undrain():
                self._records.note(action)
            case Stop():
                self._stop(action)
            case Repair():
                self._repair(action)
            case Remove():
                self._remove(action)
            case TakeOwnership() | Promote() | NoteCrash() | Forget():
                self._records.remember(action)
            case _:
                assert_never(action)

    def _start(self, action: Start) -> None:
        now = self._translator.of(action.spec, self._inventory.service(action.replica.service))
        setup = self._translator.restored(action.spec, action.translation) if action.translation else None
        launch = self._workloads.launch(action, setup)
        record = record_of(action, self._clock.now(), procfs.boot_id())
        self._supervisor.start(replace(record, translation=action.translation if setup else now), launch)

    def _stop(self, action: Stop) -> None:
        record = self._inventory.replica(action.replica)
        if record is None:
            return
        if record.stopping_at is None:
            record = self._inventory.change(record.id, stopping_at=self._clock.now())
        self._supervisor.stop(record, action.force or not self._may_have_requests(record))

    def _may_have_requests(self, record: ReplicaRecord) -> bool:
        """An engine that still starts has none, and may ignore SIGTERM."""
        if record.ready_at is not None:
            return True
        if not procfs.listens(record.address):
            return False
        # After a reboot the proxy sends requests before we know that it is ready.
        proxy = self._proxy.observe()
        known = proxy.endpoint(record.address).in_flight
        routed = {each.replica for route in proxy.applied.values() for each in (*route.stable, *route.canary)}
        return record.id in routed if known is None else known > 0

    def _repair(self, action: Repair) -> None:
        record = self._inventory.replica(action.replica)
        if record is not None:
            self._supervisor.repair(record)

    def _remove(self, action: Remove) -> None:
        record = self._inventory.replica(action.replica)
        if record is not None:
            self._supervisor.remove(record)

    def runs(self, service: ServiceId) -> bool:
        """Has this service replicas here? Raises UnreadableRecord."""
        return any(record.id.service == service for record in self._inventory.replicas())

    def restart(self, service: ServiceId, who: str) -> None:
        """Write down that its replicas are to be replaced by new ones. Raises Retryable."""
        self._records.restart(service, who)
