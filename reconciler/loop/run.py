"""The daemon as a process: signals, systemd's watchdog, and the config read again. What runs stays as it is."""

from __future__ import annotations

import signal
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from types import FrameType

import structlog

from reconciler.build import build_id
from reconciler.config.settings import Settings
from reconciler.errors import ReconcileError, SettingsError
from reconciler.loop.daemon import Daemon
from reconciler.report import log as logs
from reconciler.state.target_registry import TargetRegistry
from reconciler.system.notify import notify, reloading, watchdog_interval
from reconciler.system.process_limits import share_heap
from reconciler.web.tls import load as load_certificate

log = structlog.get_logger()


def run_daemon(settings: Settings, path: Path) -> int:
    """Run until SIGTERM or SIGINT; SIGHUP reloads the config. Models keep serving."""
    share_heap()
    build_id()
    logs.configure(settings.log)
    signals = _Signals()
    daemon = _begin(settings)
    while _mind(daemon, signals):
        known = daemon.settings
        wanted = _read_again(path, daemon)
        if wanted is None:
            notify("READY=1")
            continue
        daemon.stop()
        logs.configure(wanted.log)
        daemon = _begin(wanted, fallback=known)
    notify("STOPPING=1")
    daemon.stop()
    log.info("daemon_stopped", workloads="keep serving")
    return 0


def _begin(settings: Settings, fallback: Settings | None = None) -> Daemon:
    """Start a daemon; with settings that cannot be used, go back to those that could. Raises ReconcileError."""
    try:
        daemon = Daemon(settings)
        daemon.start()
    except ReconcileError as error:
        if fallback is None:
            raise
        daemon = _begin(fallback)
        daemon.note_refused_config(error)
        return daemon
    notify("READY=1")
    return daemon


def _mind(daemon: Daemon, signals: _Signals) -> bool:
    """Wait for a signal, telling systemd that we are alive. True: the config is to be read again."""
    interval = watchdog_interval()
    while not signals.wait(interval or 60.0):
        if interval and daemon.heartbeat() < max(60.0, 3 * daemon.settings.resync):
            notify("WATCHDOG=1")
    if signals.stop:
        return False
    signals.reload = False
    notify(*reloading())
    return True


def _read_again(path: Path, daemon: Daemon) -> Settings | None:
    """The config as it is now; None where it cannot be followed, and the daemon goes on as it was."""
    settings = daemon.settings
    try:
        wanted = Settings.load(path)
        if wanted.state_dir != settings.state_dir:
            # What runs is on record in the old folder: from another one it would be started a second time.
            raise SettingsError(f"{path}: state_dir: cannot change while the daemon runs; end it and what it started")
        TargetRegistry(wanted.state_dir).check(wanted)
        if wanted.web.tls:
            # The daemon that runs still has its certificate in memory, also where nobody can read it any more.
            load_certificate(wanted.web.tls)
        return wanted
    except ReconcileError as error:
        daemon.note_refused_config(error)
        return None


class _Signals:
    """SIGTERM, SIGINT and SIGHUP, none of which gets lost.

    An event would not do: a handler runs between any two steps of this thread, also of the event's own.
    """

    def __init__(self) -> None:
        self.stop = False
        self.reload = False
        self._bell: SimpleQueue[None] = SimpleQueue()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._note)

    def wait(self, seconds: float) -> bool:
        """Is there one already, or does one come in this time?"""
        if not (self.stop or self.reload):
            with suppress(Empty):
                self._bell.get(timeout=seconds)
        return self.stop or self.reload

    def _note(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGHUP:
            self.reload = True
        else:
            self.stop = True
        self._bell.put(None)
