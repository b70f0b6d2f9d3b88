"""One host: what is observed of it, and what is done to it. The same for child processes and for units."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import assert_never

from reconciler import config, procfs
from reconciler.bugs import Faults
from reconciler.engines.images import find_engine
from reconciler.engines.lacks import Lacks
from reconciler.engines.preflight import PreflightRunner
from reconciler.engines.probe import fatal_reason
from reconciler.errors import ReconcileError, Retryable, Terminal
from reconciler.inventory import Inventory, ReplicaRecord, TargetLock, UnreadableRecord
from reconciler.model import (
    Action,
    Admit,
    Adopt,
    AskPreflight,
    Desired,
    Drain,
    EnsureProxy,
    Forget,
    NoteCrash,
    NoteFailure,
    Observed,
    Own,
    Owned,
    Promote,
    Promoted,
    ProxyBreak,
    Reject,
    Relabel,
    Remove,
    Repair,
    Replica,
    ReplicaId,
    Restart,
    ServiceId,
    SetRoutes,
    Stage,
    StageImage,
    Start,
    Stop,
    Translation,
    Undrain,
    Unreachable,
    Unstage,
)
from reconciler.routing.envoy import EnvoyProxy, ProxyState
from reconciler.routing.watch import ProxyWatch
from reconciler.secrets import NO_SECRETS, SecretStore
from reconciler.targets import gpu_use
from reconciler.targets.clock import Clock
from reconciler.targets.exits import ExitWatch
from reconciler.targets.fits import Fits
from reconciler.targets.gpus import Gpus
from reconciler.targets.kept_values import KeptValues
from reconciler.targets.kinds import make_begin, make_fetcher, make_images, make_supervisor, prepare_shutdown
from reconciler.targets.liveness import Limits, Witness
from reconciler.targets.machine import Machine
from reconciler.targets.pauses import PAUSED, Pauses
from reconciler.targets.port_guard import PortGuard
from reconciler.targets.port_hold import PortHolds
from reconciler.targets.preflights import Preflights
from reconciler.targets.probing import Probes, Sight
from reconciler.targets.questions import EngineQuestions
from reconciler.targets.reserved import NOTHING, Reserved
from reconciler.targets.stager import Stager
from reconciler.targets.start_checks import StartChecks, record_of
from reconciler.targets.subjects import Subjects
from reconciler.targets.supervisor import ProcessState
from reconciler.targets.translations import Translations
from reconciler.targets.workload import Workloads

_PROXY = "proxy"
_CRASHES_KEPT = 10
_SETTLE = 0.3
_RUNS_KEPT = 64
_LAST_WORDS = 60
# A traceback through several processes is long; the line that counts may stand far above its end.
_LINES_TO_BLAME = 400
_LINES_OF_START = 4000


class HostTarget:
    """A host in one folder. Whoever acts on it holds its lock; looking needs none."""

    def __init__(
        self,
        settings: config.HostTarget,
        folder: Path,
        wake: Callable[[], None],
        secrets: Callable[[], SecretStore] = lambda: NO_SECRETS,
        closed: tuple[Path, ...] = (),
        reserved: Reserved = lambda: NOTHING,
        take_refused: Callable[[str, Mapping[str, int], int], None] = lambda *_: None,
        cache: Path | None = None,
    ) -> None:
        """Raises SettingsError. `wake` is called from other threads whenever a pass may have something to do.

        `closed` are places beside the target's own folder that no service may name. `reserved` tells what others hold.
        `take_refused` is told now and then which process of the proxy answered how many requests with 503, by service,
        and how many for paths that are not open with 403.
        What engines say when they are asked is kept in `cache`, by default the target's own folder.
        """
        # Whoever only looks may be another user than who keeps the folder.
        cache, closed = cache or folder, (*closed, folder.absolute(), config.DEFAULT_PATH.parent)
        self.name = settings.name
        self._settings = settings
        self._wake = wake
        self._inventory = Inventory(folder)
        self._lock = TargetLock(folder)
        self._recovered = False
        self._closed = False
        self._clock = Clock()
        self._pauses = Pauses(self._clock.now())
        self._dead: frozenset[str] = frozenset()
        self._gpus = gpus = Gpus(settings.gpus)
        self._machine = Machine(settings, gpus)
        self._reserved = reserved
        self._translations = Translations(settings, KeptValues(self._inventory.replicas).read)
        hidden = (*closed, *settings.volumes.values())
        self._supervisor, spawn_proxy = make_supervisor(settings, self._inventory, gpus, hidden)
        self._proxy = EnvoyProxy(folder / "proxy", settings.routing, spawn_proxy)
        self._proxy_exit: ExitWatch | None = None
        self._stager = Stager(settings.storage, folder / "models", make_fetcher(settings, folder), secrets, wake)
        self._images = make_images(settings, folder)
        find_image = self._images.find if self._images else lambda _: None
        lacks = Lacks(cache / "preflight")
        self._workloads = Workloads(settings, cache, secrets, self._stager, closed, lacks, find_image)
        fits = Fits(folder / "fit", self._machine)
        begin = make_begin(settings, gpus, folder, hidden)
        reader = settings.user if settings.kind == "systemd" else ""
        checks = StartChecks(self._workloads, self._supervisor, settings.rollout.drain_timeout, reader, closed)
        runner = PreflightRunner(cache / "preflight", wake, begin=begin, lacks=lacks)
        self._preflights = Preflights(self._workloads, runner, wake, fits, checks)
        self._guard = PortGuard(self._supervisor.owns, PortHolds())
        self._subjects = Subjects(self._workloads.api_key, self._guard)
        limits = Limits(settings.liveness.interval, settings.liveness.timeout)
        self._witness = Witness()
        self._probes = Probes(EngineQuestions(self._proxy), wake, limits, self._witness)
        self._proxy_watch = ProxyWatch(self._proxy, wake, self._note_proxy, self._is_proxy_alone, take_refused)

    def lock(self) -> None:
        """Take over this host. Raises Terminal, naming the holder, while another process has it."""
        if self._closed:
            raise Retryable(f"target {self.name}: let go already; whoever took it over goes on")
        if self._lock.is_held:
            self._lock.check()
        else:
            self._lock.acquire()
            self._clock.watch()
            self._supervisor.subscribe(self._wake)
            self._stager.subscribe()
            self._proxy_watch.start()
            self._proxy_exit = ExitWatch(on_exit=lambda _: self._wake(), chore=lambda: None)
        if not self._recovered:
            try:
                self._supervisor.recover()
                self._supervisor.open_to_proxy()
                prepare_shutdown(self._settings, self._inventory.folder / "proxy")
                self._complete_records()
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
        self._proxy_watch.close()
        self._preflights.close()
        self._supervisor.close()
        self._stager.close()
        if self._proxy_exit is not None:
            self._proxy_exit.close()
        self._lock.release()

    def logs(self, service: ServiceId, lines: int) -> tuple[str, ...]:
        """The last lines of each replica of a service; where there are several, each line says whose it is."""
        replicas = [record.id for record in self._inventory.replicas() if record.id.service == service]
        found = [(replica, self._supervisor.logs(replica, lines)) for replica in replicas]
        if len(found) == 1:
            return found[0][1]
        return tuple(f"{replica.serial}: {line}" for replica, said in found for line in said)

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
            states = self._states(records, faults)
            reserved = self._reserved()
            ports = (*reserved.ports, *(record.lease.port for record in records))
            capacity = self._machine.capacity(ports)
            if gpu_use.is_asked_for(wanted, records, states, faults):
                capacity = replace(capacity, gpu_use=gpu_use.look(self._gpus, self._supervisor.is_ours, faults))
            capacity = gpu_use.without(capacity, reserved.gpus)
            # In this order: what is staged by now is there when the engine is asked about it.
            staging = self._stager.look()
            images = self._images.look(self._containers(wanted, owned, records, faults)) if self._images else {}
            outdated = self._translations.outdated(wanted, records, owned, faults)
            restarts = {service: one.restarted_at for service, one in owned.items() if one.restarted_at}
            running = _running(wanted, records, states) - outdated.keys()
            known = self._preflights.look_up(wanted, running, restarts)
            if self._lock.is_held:
                # Whoever only looks deletes nothing.
                self._preflights.tidy(owned, records)
        except ReconcileError as error:
            return Unreachable(self.name, now, str(error))
        paused = self._pauses.look(records, now)
        self._probes.watch(self._subjects.of(records, states, faults))
        proxy = self._proxy.observe()
        self._watch_proxy()
        return Observed(
            target=self.name,
            at=now,
            replicas=tuple(
                self._replica_safely(
                    record, states[record.id], proxy, now, PAUSED if record.id in paused else record.again, faults
                )
                for record in records
            ),
            capacity=capacity,
            owned=owned,
            routes=proxy.applied,
            proxy_ready=proxy.ready,
            proxy_break=ProxyBreak.NONE if proxy.ready else self._proxy_watch.found,
            preflights=known.preflights,
            preflighting=frozenset(known.asking),
            blockers=known.blockers,
            staging=staging,
            images=images,
            outdated=outdated,
            faulty=faults.reasons,
            bugs=tuple(faults.bugs),
        )

    def _containers(
        self,
        wanted: Iterable[Desired],
        owned: Mapping[ServiceId, Owned],
        records: Iterable[ReplicaRecord],
        faults: Faults,
    ) -> Iterator[str]:
        """The images that somebody needs here, and that podman runs."""
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

    def _note_proxy(self, now: float) -> None:
        self._witness.note(_PROXY, now)

    def _is_proxy_alone(self, since: float) -> bool:
        """Do the replicas not answer either?"""
        return self._probes.watches and not self._witness.others_since(_PROXY, since)

    def _watch_proxy(self) -> None:
        """Whoever drives this host wants to know at once when the proxy ends."""
        if self._proxy_exit is not None and (found := self._proxy.find_process()) is not None:
            self._proxy_exit.watch(found)

    def _states(self, records: Sequence[ReplicaRecord], faults: Faults) -> Mapping[ReplicaId, ProcessState]:
        """What is there of each. Those that die together do not do so in one moment: a new death is let settle."""
        states = self._list(records, faults)
        dead = frozenset(_run_of(one) for one in records if not states[one.id].alive and one.stopping_at is None)
        if not dead <= self._dead:
            time.sleep(_SETTLE)
            states = self._list(records, faults)
        self._dead = dead
        return states

    def _list(self, records: Sequence[ReplicaRecord], faults: Faults) -> Mapping[ReplicaId, ProcessState]:
        """Where one makes us raise, each is looked at by itself; what nobody can tell of counts as alive."""
        try:
            return self._supervisor.list(records)
        except ReconcileError:
            raise
        except Exception as error:
            if len(records) > 1:
                return {key: state for one in records for key, state in self._list((one,), faults).items()}
            faults.note(records[0].id.service, error, records[0].origin)
            return {records[0].id: ProcessState(alive=True)}

    def _replica_safely(
        self, record: ReplicaRecord, state: ProcessState, proxy: ProxyState, now: float, again: str, faults: Faults
    ) -> Replica:
        """One that makes us raise is still there, and holds what it holds."""
        try:
            return self._replica(record, state, proxy, now, again)
        except Exception as error:
            faults.note(record.id.service, error, record.origin)
            return Replica(
                id=record.id,
                digest=record.digest,
                spec=record.spec,
                origin=record.origin,
                lease=record.lease,
                created_at=record.created_at,
                alive=state.alive,
                leftovers=state.leftovers,
                ready_at=record.ready_at,
                draining_at=record.draining_at,
                stopping_at=record.stopping_at,
                translation=record.translation,
                socket=record.socket,
            )

    def _replica(
        self, record: ReplicaRecord, state: ProcessState, proxy: ProxyState, now: float, again: str
    ) -> Replica:
        sight = self._probes.sight(record.id)
        since = max(record.created_at, self._pauses.watched_since(record.id))
        late = record.ready_at is None and now - since > self._settings.rollout.ready_timeout
        failed = state.spawned and (not state.alive or sight.healthy is False or late)
        failed = failed or state.restarted is Restart.CRASHED
        words = self._supervisor.logs(record.id, _LINES_TO_BLAME) if failed else ()
        at_proxy = proxy.endpoint(record.address)
        return Replica(
            id=record.id,
            digest=record.digest,
            spec=record.spec,
            origin=record.origin,
            lease=record.lease,
            created_at=record.created_at,
            parsed=record.parsed,
            alive=state.alive,
            leftovers=state.leftovers,
            releasing=state.releasing,
            exit_code=state.exit_code,
            ready_now=_is_ready(record, state, sight),
            ready_at=record.ready_at,
            draining_at=record.draining_at,
            stopping_at=record.stopping_at,
            healthy=sight.healthy,
            routed=at_proxy.routed,
            in_flight=at_proxy.in_flight if sight.silence else sight.in_flight,
            quiet_samples=sight.quiet_samples,
            rebooted=state.rebooted,
            spawned=state.spawned,
            drift=state.drift,
            run=_run_of(record),
            restarted=state.restarted,
            again=again,
            watched_since=self._pauses.watched_since(record.id),
            image=record.image,
            translation=record.translation,
            last_words=words[-_LAST_WORDS:],
            blame=fatal_reason(words) or "",
            at_proxy=at_proxy.in_flight,
            most_in_flight=sight.most_in_flight,
            silence=sight.silence,
            silent_why=sight.silent_why,
            socket=record.socket,
            stranger=sight.stranger,
        )

    # ------------------------------------------------------------ perform

    def perform(self, action: Action) -> None:
        """Do one action, idempotently. Raises Retryable or Terminal."""
        if isinstance(action, AskPreflight):
            # Changes nothing, so that `plan` may ask while a daemon runs.
            self._preflights.ask(action)
            return
        self.lock()
        match action:
            case EnsureProxy():
                self._proxy.ensure_running(action.replace)
                self._supervisor.open_to_proxy()
                self._watch_proxy()
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
            case Admit() | Adopt() | Relabel() | Drain() | Undrain():
                self._write_down(action)
            case Stop():
                self._stop(action)
            case Repair():
                self._repair(action)
            case Remove():
                self._remove(action)
            case Own() | Promote() | NoteCrash() | Forget():
                self._remember(action)
            case Reject() | NoteFailure():
                raise Terminal("verdicts are kept by the history, not by a host; this is a bug in the loop")
            case _:
                assert_never(action)

    def _start(self, action: Start) -> None:
        now = self._translations.of(action.spec, self._inventory.service(action.replica.service))
        setup = self._translations.restored(action.spec, action.translation) if action.translation else None
        launch = self._workloads.launch(action, setup)
        record = record_of(action, self._clock.now(), procfs.boot_id())
        self._supervisor.start(replace(record, translation=action.translation if setup else now), launch)

    def _write_down(self, action: Admit | Adopt | Relabel | Drain | Undrain) -> None:
        with self._inventory.changing():
            record = self._inventory.change(action.replica)
            match action:
                case Admit():
                    record = self._supervisor.note(record)
                    record = replace(record, ready_at=record.ready_at or self._clock.now(), again="")
                case Adopt():
                    record = self._supervisor.adopt(record)
                    if not action.serves:
                        # It has to load its model again, and gets the time for that.
                        record = replace(record, ready_at=None, created_at=self._clock.now(), again=action.reason)
                case Relabel():
                    record = replace(record, digest=action.digest, spec=action.spec, origin=action.origin)
                case Drain():
                    record = replace(record, draining_at=record.draining_at or self._clock.now())
                case Undrain():
                    record = replace(record, draining_at=None)
                case _:
                    assert_never(action)
            self._inventory.write(record)
        if isinstance(action, Admit):
            self._preflights.note_start(
                record.id.service, record.spec, self._supervisor.logs(record.id, _LINES_OF_START)
            )

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

    def _remember(self, action: Own | Promote | NoteCrash | Forget) -> None:
        match action:
            case Forget():
                self._inventory.forget_service(action.service)
            case Own():
                known = self._inventory.service(action.service) or Owned(action.service, action.origin)
                self._inventory.remember_service(replace(known, origin=action.origin))
            case Promote():
                known = self._inventory.service(action.service) or Owned(action.service, action.promoted.origin)
                same = known.promoted is not None and known.promoted.digest == action.promoted.digest
                known = known if same else replace(known, crashes=(), conflicts=())
                promoted = replace(action.promoted, translation=self._proven(action.service, action.promoted, known))
                changed = replace(known, promoted=promoted, origin=action.promoted.origin)
                self._inventory.remember_service(changed)
            case NoteCrash():
                self._note_crash(action)
            case _:
                assert_never(action)

    def _proven(self, service: ServiceId, promoted: Promoted, known: Owned) -> Translation:
        """What the config made of it when it was started: of the youngest that serve."""
        same = [r for r in self._inventory.replicas() if r.id.service == service and r.digest == promoted.digest]
        serving = [record for record in same if record.ready_at is not None and record.draining_at is None]
        if serving and promoted.replicas:
            return max(serving, key=lambda record: record.created_at).translation
        return known.promoted.translation if known.promoted else ()

    def runs(self, service: ServiceId) -> bool:
        """Has this service replicas here? Raises UnreadableRecord."""
        return any(record.id.service == service for record in self._inventory.replicas())

    def restart(self, service: ServiceId, who: str) -> None:
        """Write down that its replicas are to be replaced by new ones. Raises Retryable."""
        with self._inventory.changing():
            known = self._inventory.service(service)
            if known is None:
                raise Retryable(f"{service} has no record on {self.name} yet; ask again once it has started")
            at = self._clock.now()
            when = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
            said = f"asked for at {when} by {who}"
            self._inventory.remember_service(replace(known, restart=said, restarted_at=at))

    def _complete_records(self) -> None:
        """Older daemons did not write down what the config made of a spec: they count as made by today's."""
        owned = self._inventory.services()
        for record in self._inventory.replicas():
            if not record.translation and (now := self._translations.of(record.spec, owned.get(record.id.service))):
                self._inventory.change(record.id, translation=now)
        for one in owned.values():
            if one.promoted is not None and not one.promoted.translation:
                now = self._translations.of(one.promoted.spec, one)
                self._inventory.remember_service(replace(one, promoted=replace(one.promoted, translation=now)))

    def _note_crash(self, action: NoteCrash) -> None:
        known = self._inventory.service(action.replica.service)
        if known is None:
            record = self._inventory.change(action.replica)
            known = Owned(record.id.service, record.origin)
        if action.run in known.counted:
            return
        known = replace(known, counted=(*known.counted, action.run)[-_RUNS_KEPT:])
        before = known.conflicts if action.conflict else known.crashes
        times = tuple(sorted({*before, action.at}))[-_CRASHES_KEPT:]
        noted = replace(known, conflicts=times) if action.conflict else replace(known, crashes=times)
        self._inventory.remember_service(noted)


def _is_ready(record: ReplicaRecord, state: ProcessState, sight: Sight) -> bool:
    if state.between or state.restarted is not None:
        # What was answered was answered by another process.
        return state.listens
    # Once written down it stays true until it is known to be false: a daemon that just came up has not asked.
    return sight.ready or (record.ready_at is not None and state.alive and sight.healthy is not False)


def _run_of(record: ReplicaRecord) -> str:
    who = record.process
    return f"{record.id.serial} {f'{who.pid}.{who.started}' if who else record.created_at}"


def _running(
    wanted: Iterable[Desired], records: Iterable[ReplicaRecord], states: Mapping[ReplicaId, ProcessState]
) -> frozenset[str]:
    """The digests of which enough runs already: nothing has to be started for them. Services may share one."""
    alive: dict[str, int] = {}
    for record in records:
        if record.stopping_at is None and record.draining_at is None and states[record.id].alive:
            alive[record.digest] = alive.get(record.digest, 0) + 1
    asked: dict[str, int] = {}
    for one in wanted:
        asked[one.digest] = asked.get(one.digest, 0) + max(1, one.replicas)
    return frozenset(digest for digest, count in asked.items() if alive.get(digest, 0) >= count)
