"""The daemon: one thread follows git, one per target makes passes, one serves HTTP, others run beside."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from contextlib import suppress

import structlog

from reconciler import __version__
from reconciler.build import build_id
from reconciler.config.settings import Settings
from reconciler.errors import ReconcileError, Retryable
from reconciler.evaluation.sandbox import Sandbox
from reconciler.host.inventory import vanished
from reconciler.loop.beside import SeesPullRequests, make_beside, outbox_of
from reconciler.loop.failures import DiskCheck
from reconciler.loop.following import SourceFollower
from reconciler.loop.gpu_readings import GpuReadings
from reconciler.loop.page_facts import DaemonPageFacts
from reconciler.loop.service_details import service_details
from reconciler.loop.source_recorder import SourceRecorder
from reconciler.loop.stage_times import StageTimes
from reconciler.loop.wiring import (
    ManagedTarget,
    keep_targets,
    leftover_info,
    make_drain,
    make_folder,
    make_history,
    make_places,
    make_source,
    retire,
)
from reconciler.model import ByHand, ServiceId
from reconciler.report.status import DaemonInfo, Document, LeftoverInfo, build_status
from reconciler.source import shown_address
from reconciler.state.target_registry import Leftover, TargetRegistry
from reconciler.system.unix_sockets import identity
from reconciler.web.metrics import Metrics
from reconciler.web.server import WebSide

log = structlog.get_logger()

_SHORTEST_PAUSE = 0.02


class Daemon:
    """Everything that runs while one config is in force. Also the `Control` of the web side."""

    def __init__(self, settings: Settings) -> None:
        """Raises ReconcileError when a folder, lock or address cannot be had."""
        self.settings = settings
        make_folder(settings)
        self._state = identity(settings.state_dir)
        self._metrics = Metrics()
        self._history = make_history(settings)
        self._sandbox = Sandbox(settings.targets)
        self._drain = make_drain(settings)
        self._places = make_places(settings, self._history, self._metrics, sandbox=self._sandbox)
        self._left: tuple[Leftover, ...] = TargetRegistry(settings.state_dir).leftovers(settings)
        self._web = WebSide(settings, self, self._metrics)
        self._stop = threading.Event()
        self._counting = threading.Lock()
        self._disk = DiskCheck(settings.state_dir)
        self._earlier_passes = 0
        self._source_recorder = SourceRecorder(self._history)
        source = make_source(settings, sandbox=self._sandbox)
        self._follower = SourceFollower(settings, source, self._source_recorder, self._metrics, self._check_state)
        self._beside = (self._web.live, *make_beside(settings, self, self._web.live.wake))
        self._page_facts = DaemonPageFacts(
            settings,
            self._history,
            reports=lambda: [(p.settings, p.reconciler.report) for p in self._places if p.leftover is None],
            snapshot=lambda: self._follower.snapshot,
            outbox=lambda: outbox_of(self._beside),
        )
        self._gpu_readings = GpuReadings(lambda: [(place.settings.name, place.target) for place in self._places])
        self._config_error = ""
        self._stage_times = StageTimes()
        self._started_at = time.time()
        self._threads = [threading.Thread(target=self._work, args=(p,), name=p.settings.name) for p in self._places]

    def start(self) -> None:
        """Take the locks, then begin. Raises ReconcileError, and releases everything again."""
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self) -> None:
        for place in self._places:
            place.target.lock()
        keep_targets(self.settings, self._history)
        self._source_recorder.compare_config(self.settings)
        self._sandbox.start()
        self._web.start()
        self._follower.load_last_good()
        for place in self._places:
            place.last_pass_at = time.monotonic()
        self._follower.start(self._wake_all, self._wake_beside)
        for thread in self._threads:
            thread.start()
        for part in self._beside:
            part.start()
        log.info(
            "daemon_started",
            version=__version__,
            source=shown_address(self.settings.source.url),
            targets=len(self._places),
        )

    def note_refused_config(self, error: ReconcileError) -> None:
        """Record that a config was read and is rejected."""
        self._config_error = str(error)
        log.error("config_rejected", error=str(error), kept="the settings that were in force")
        self._source_recorder.refused_config(error)

    def stop(self) -> None:
        """End threads and servers; what serves keeps serving."""
        self._stop.set()
        for place in self._places:
            place.wake.set()
        self._follower.end()
        self._sandbox.close()
        self._web.stop()
        for part in self._beside:
            part.stop()
        self._follower.join(30)
        for thread in self._threads:
            if thread.is_alive():
                thread.join(30)
        for place in self._places:
            place.reconciler.close()
        self._follower.source.close()
        self._history.close()

    def _wake_all(self) -> None:
        for place in self._places:
            place.wake.set()

    def _wake_beside(self) -> None:
        for part in self._beside:
            part.wake()

    # ------------------------------------------------------------ passes

    def _work(self, place: ManagedTarget) -> None:
        while not (self._stop.is_set() or place.is_retired):
            pause = self._pass_safely(place)
            place.last_pass_at = time.monotonic()
            self._wake_beside()
            # Wake-ups in a row become one pass.
            self._stop.wait(_SHORTEST_PAUSE)
            place.wake.wait(max(0.0, pause - _SHORTEST_PAUSE))
            place.wake.clear()

    def _pass_safely(self, place: ManagedTarget) -> float:
        # Said before the snapshot is taken: who asks for a pass over the newest one must not count this one as it.
        place.is_turning = True
        passed, began = 0, time.monotonic()
        try:
            snapshot = self._follower.snapshot
            if snapshot is None and not self._follower.has_failed:
                return self.settings.resync
            self._check_state()
            one_pass = place.reconciler.run_pass(snapshot)
            passed = 1
            place.errors.clear()
            if retire(place, self.settings):
                self._let_go(place)
            return self.settings.resync if one_pass.again_in is None else min(one_pass.again_in, self.settings.resync)
        except Exception as error:
            # The one broad catch.
            if self._stop.is_set():
                return 0.0
            place.reconciler.fail(place.errors.note(error), time.monotonic() - began)
            return place.errors.pause
        finally:
            with self._counting:
                place.is_turning = False
                place.passes += passed
                self._earlier_passes += passed if place.is_retired else 0

    def _check_state(self) -> None:
        """Without the state folder it is unknown what runs:

        starting from scratch would start everything a second time.
        """
        if identity(self.settings.state_dir) != self._state:
            raise vanished(self.settings.state_dir)

    def _let_go(self, place: ManagedTarget) -> None:
        """Of a target that is gone nothing is left but the count of its passes."""
        place.is_retired = True
        with self._counting:
            self._places = [other for other in self._places if other is not place]
            self._earlier_passes += place.passes
        place.reconciler.close()

    # ------------------------------------------------------------ what the web side asks

    def heartbeat(self) -> float:
        if self._sandbox.is_busy():
            # A pass may wait for that, which ends by itself: restarted, we would only begin it again.
            return 0.0
        return time.monotonic() - min(place.last_pass_at for place in self._places)

    def gpu_use(self) -> Mapping[str, Mapping[str, Document]]:
        return self._gpu_readings.latest()

    def status(self) -> Document:
        applied = {place.reconciler.report.applied for place in self._places if place.leftover is None}
        revision = self._follower.info(applied.pop() if len(applied) == 1 else "")
        me = DaemonInfo(
            __version__,
            self._started_at,
            os.getpid(),
            self._passes(),
            build_id(),
            fault=self._disk.fault(),
            config_fault=self._config_error,
        )
        reports = [place.report() for place in self._places]
        beside = {key: value for part in self._beside for key, value in part.document().items()}
        found = build_status(revision=revision, targets=reports, daemon=me, leftovers=self._leftovers()) | beside
        self._stage_times.complete(found)
        return found

    def page_facts(self) -> DaemonPageFacts:
        return self._page_facts

    def _leftovers(self) -> list[LeftoverInfo]:
        """What is on record of targets that the config does not name."""
        if not self._left:
            return []
        with suppress(Retryable):
            self._left = TargetRegistry(self.settings.state_dir).leftovers(self.settings)
        return [leftover_info(one) for one in self._left]

    def _passes(self) -> int:
        # Each target's thread counts its own.
        return self._earlier_passes + sum(place.passes for place in self._places)

    def history(
        self, service: str | None, limit: int, since: float | None = None, revision: str | None = None
    ) -> list[dict[str, str]]:
        return self._history.entries(limit, service, since, revision)

    def logs(self, service: str, lines: int) -> list[str]:
        key = _service_id(service)
        return [line for place in self._places for line in place.target.logs(key, lines)]

    def service_details(self, service: str, target: str, lines: int) -> Document:
        return service_details(self._places, target, _service_id(service), lines, self.settings.state_dir)

    def request_sync(self, by: str = "") -> int:
        if by:
            self._source_recorder.sync_requested(by)
        if self._follower.is_polling() and self._sandbox.is_busy():
            # What is being read now counts for this as well, unless git has something newer.
            self._sandbox.look_now()
        else:
            self._follower.source.retry()
            self._sandbox.forget()
        self._follower.poll()
        with self._counting:
            needed = self._passes_needed()
        self._wake_all()
        return needed

    def on_push(self) -> None:
        self._follower.wake()

    def on_pull_request(self) -> None:
        for part in self._beside:
            if isinstance(part, SeesPullRequests):
                part.look_at_pull_requests()

    def suspend(self, service: str | None, asked: ByHand) -> list[str]:
        for place in self._places:
            place.suspension.add(service, asked)
            place.recorder.record_by_hand("suspended", str(asked), service or "")
        self._wake_all()
        return self._suspended()

    def resume(self, service: str | None, by: str) -> list[str]:
        for place in self._places:
            lifted = {*place.suspension.lift(service), *place.reconciler.retry(service)}
            for name in sorted(lifted):
                place.recorder.record_by_hand("resumed", f"by {by}", name)
        self._wake_all()
        return self._suspended()

    def restart(self, service: str, target: str | None, by: str) -> tuple[list[str], int]:
        key, chosen = _service_id(service), [place for place in self._places if place.leftover is None]
        if target is not None:
            self.settings.target(target)
            chosen = [place for place in chosen if place.settings.name == target]
        chosen = [place for place in chosen if place.target.runs(key)]
        if not chosen:
            raise Retryable(f"{service}: nothing of it runs{f' on {target}' if target else ''}; nothing to restart")
        for place in chosen:
            place.target.restart(key, by)
            place.recorder.record_by_hand("restart_requested", f"requested by {by}", service)
        with self._counting:
            needed = self._passes_needed()
        self._wake_all()
        return [place.settings.name for place in chosen], needed

    def _passes_needed(self) -> int:
        """The number of passes after which each target has seen what is said now."""
        return self._passes() + sum(2 if place.is_turning else 1 for place in self._places)

    def drain(self, asked: ByHand) -> None:
        self._drain.begin(asked)
        for place in self._places:
            place.recorder.record_by_hand("host_drained", str(asked))
        self._wake_all()

    def undrain(self, by: str) -> bool:
        lifted = self._drain.end()
        for place in self._places if lifted else ():
            place.recorder.record_by_hand("host_undrained", f"by {by}")
        self._wake_all()
        return lifted is not None

    def approve(self, hash_: str, target: str | None, asked: ByHand) -> list[str]:
        done = [place for place in self._chosen(target) if self._approve(place, hash_, asked)]
        if not done:
            raise Retryable(f"no deletions with the hash {hash_[:64]} are held{_on(target)}; {self._held()}")
        self._wake_all()
        return [place.settings.name for place in done]

    def _approve(self, place: ManagedTarget, hash_: str, asked: ByHand) -> bool:
        plan = place.reconciler.report.plan
        held = plan.deletions.held if plan else None
        if held is None or held.hash != hash_:
            return False
        place.deletions.approve(held, asked)
        return True

    def _held(self) -> str:
        plans = ((place.settings.name, place.reconciler.report.plan) for place in self._places)
        held = [f"{plan.deletions.held.hash} on {name}" for name, plan in plans if plan and plan.deletions.held]
        return f"held are {', '.join(held)}" if held else "none are held"

    def withdraw(self, hash_: str, target: str | None, asked: ByHand) -> list[str]:
        done = [place for place in self._chosen(target) if place.deletions.withdraw(hash_, asked)]
        if not done:
            raise Retryable(f"no approval of {hash_[:64]} is in force{_on(target)}; `reconciler approve --list`")
        self._wake_all()
        return [place.settings.name for place in done]

    def _chosen(self, target: str | None) -> list[ManagedTarget]:
        """Raises SettingsError for an unknown target."""
        if target is not None:
            self.settings.target(target)
        return [place for place in self._places if target in (None, place.settings.name)]

    def _suspended(self) -> list[str]:
        return sorted({name for place in self._places for name in place.suspension.names()})


def _on(target: str | None) -> str:
    return f" on {target}" if target else ""


def _service_id(service: str) -> ServiceId:
    namespace, slash, name = service.partition("/")
    if not slash:
        raise Retryable(f"{service}: give the service as namespace/name")
    return ServiceId(namespace, name)
