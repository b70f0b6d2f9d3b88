"""The part of systemd's API that the daemon uses, over D-Bus: cheap calls, and a signal when something changes."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import structlog

from reconciler.errors import Retryable
from reconciler.host.systemd.bus import PATH, PRIVATE, SYSTEM, Bus, ConnectionLost, DBusError, NoConnection

_GONE = ("org.freedesktop.systemd1.NoSuchUnit", "org.freedesktop.systemd1.NoSuchProcess")
_RUN = ("MainPID", "ExecMainStartTimestampMonotonic", "ExecMainCode", "ExecMainStatus", "NRestarts")
_RECONNECT_SECONDS = 3.0
_RECONNECT_PAUSE = 0.05
_EXITED = 1
_log = structlog.get_logger()
_REMEDY = (
    "kind: systemd needs systemd as process 1, and a daemon that runs as root and sees /run/systemd/private, "
    "or else a system bus (install dbus)"
)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class UnitState:
    """One loaded unit as systemd describes it. `job` is what is about to be done to it: `start`, `stop`, `restart`…"""

    name: str
    active: str
    sub: str
    job: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """The main process of a unit, now or at last.

    `started` is in microseconds since boot and 0 for a unit that never ran; `exit_code` is negative for a signal.
    `restarts` counts how often systemd itself restarted it since it was last started otherwise.
    """

    pid: int = 0
    started: int = 0
    exit_code: int | None = None
    restarts: int = 0


@dataclass(frozen=True, slots=True)
class UnitOutcome:
    """How a service is, and how it ended when it last did; `ended` is in microseconds since boot."""

    active: str
    result: str
    ended: int


def run_of(pid: int, started: int, code: int, status: int, restarts: int) -> Run:
    """systemd's description of a main process' end; `code` is that of `waitid`."""
    if not started:
        return Run()
    if not code:
        return Run(pid, started, None, restarts)
    return Run(pid, started, status if code == _EXITED else -status, restarts)


def is_up(unit: UnitState | None, run: Run) -> bool:
    """Does its main process live, or is it just being started?"""
    match unit:
        case None:
            return False
        case UnitState(active="activating", sub="auto-restart"):
            return False
        case UnitState(active="active" | "activating" | "reloading"):
            return True
        case UnitState(active="deactivating"):
            return run.pid != 0
        case _:
            # After a reboot its turn may yet come.
            return bool(unit.job)


def is_over(unit: UnitState | None) -> bool:
    """Does nothing run, and will nothing be started?"""
    return unit is None or (unit.active in ("inactive", "failed") and not unit.job)


def is_ending(unit: UnitState) -> bool:
    """Was it asked to end, or asked to start and does not run yet? Without a job it ends by itself."""
    return unit.active in ("deactivating", "inactive", "failed") and bool(unit.job)


class Systemd:
    """systemd. Connects when it is first needed, and again after systemd re-executed itself.

    `sockets` are tried in this order: the first is systemd's own, for root alone, and needs no bus: `systemctl` uses
    it as well. Every method raises Retryable when systemd does not answer or refuses; a unit that is not there is fine.
    """

    def __init__(self, sockets: Sequence[Path] = (PRIVATE, SYSTEM)) -> None:
        self._sockets = sockets
        self._bus: Bus | None = None
        self._last_socket: Path | None = None
        self._connecting = threading.RLock()
        self._prefix = ""
        self._wake: Callable[[], None] = lambda: None
        self._closed = False
        # What was read of a unit stays true until a signal comes from it. Without signals nothing stays true.
        self._known: dict[str, tuple[UnitState, Run]] = {}
        # Who reads a unit now. A signal takes this away too: what is read may be older than the signal.
        self._awaited: dict[str, object] = {}
        self._reading = threading.Lock()

    @property
    def socket(self) -> Path | None:
        """The socket in use."""
        return self._bus.path if self._bus is not None else None

    def units(self, prefix: str) -> Mapping[str, UnitState]:
        """The loaded services whose names begin so. Those that ended without error are soon not loaded any more."""
        rows = self._call("ListUnitsByPatterns", "asas", [], [f"{prefix}*.service"])[0]
        return {row[0]: UnitState(row[0], row[3], row[4], row[8]) for row in rows}

    def runs(self, units: Iterable[UnitState]) -> Mapping[str, Run]:
        """Their main processes."""
        found: dict[str, Run] = {}
        missing: list[UnitState] = []
        reading = object()
        with self._reading:
            for unit in units:
                known = self._known.get(_path(unit.name))
                if known is not None and known[0] == unit:
                    found[unit.name] = known[1]
                else:
                    self._awaited[_path(unit.name)] = reading
                    missing.append(unit)
        wanted = [(_path(unit.name), "Service", argument) for unit in missing for argument in _RUN]
        values = self._ask(lambda bus: bus.properties(wanted))
        with self._reading:
            for at, unit in enumerate(missing):
                numbers = values[at * len(_RUN) : (at + 1) * len(_RUN)]
                found[unit.name] = run_of(*(number or 0 for number in numbers))
                if self._awaited.get(_path(unit.name)) is reading:
                    del self._awaited[_path(unit.name)]
                    if self._prefix:
                        self._known[_path(unit.name)] = (unit, found[unit.name])
        return found

    def outcome(self, name: str) -> UnitOutcome:
        """Of a service that need not be there."""
        path = _path(name)
        wanted = [("Unit", "ActiveState"), ("Service", "Result"), ("Unit", "InactiveEnterTimestampMonotonic")]
        active, result, ended = self._ask(lambda bus: bus.properties([(path, *each) for each in wanted]))
        return UnitOutcome(active or "inactive", result or "success", ended or 0)

    def processes(self, name: str) -> tuple[int, ...]:
        """Everything that runs in a unit."""
        try:
            return tuple(row[1] for row in self._call("GetUnitProcesses", "s", name)[0])
        except DBusError:
            # Not loaded, so nothing runs in it.
            return ()

    def install(self, name: str) -> None:
        """Read a unit's file, and have it started at every boot."""
        self._call("EnableUnitFiles", "asbb", [name], False, True)
        self.reload()

    def uninstall(self, name: str) -> None:
        """Have it started no more; its file goes after that, by `reload`."""
        with suppress(DBusError):
            self._call("DisableUnitFiles", "asb", [name], False)
        with self._reading:
            self._known.pop(_path(name), None)

    def reload(self) -> None:
        """Read all files again."""
        self._call("Reload")

    def start(self, name: str) -> None:
        """Begin to start it; does not wait."""
        self._call("StartUnit", "ss", name, "replace")

    def stop(self, name: str) -> None:
        """Begin to stop it; does not wait."""
        self._if_loaded("StopUnit", "ss", name, "replace")
        self.reset(name)

    def reset(self, name: str) -> None:
        """Forget that it failed."""
        self._if_loaded("ResetFailedUnit", "s", name)

    def kill(self, name: str) -> None:
        """SIGKILL to everything in it."""
        self._if_loaded("KillUnit", "ssi", name, "all", 9)

    def subscribe(self, prefix: str, wake: Callable[[], None]) -> None:
        """Call `wake` from another thread when one of these units may have changed."""
        with self._connecting:
            self._prefix, self._wake = _path(prefix), wake
            if self._bus is not None:
                # The next connection asks for signals before anything else.
                self._bus.close()
            with suppress(Retryable):
                self._opened()

    def close(self) -> None:
        self._closed = True
        with self._connecting:
            if self._bus is not None:
                self._bus.close()

    # ------------------------------------------------------------ the connection

    def _call(self, method: str, signature: str = "", *body: object) -> tuple[Any, ...]:
        return self._ask(lambda bus: bus.manager(method, signature, *body))

    def _ask(self, question: Callable[[Bus], T]) -> T:
        """Ask again where the connection broke over it: whatever we ask may be asked twice."""
        deadline = time.monotonic() + _RECONNECT_SECONDS
        while True:
            try:
                return question(self._opened())
            except ConnectionLost:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_RECONNECT_PAUSE)

    def _if_loaded(self, method: str, signature: str, *body: object) -> None:
        try:
            self._call(method, signature, *body)
        except DBusError as error:
            if error.name not in _GONE:
                raise

    def _opened(self) -> Bus:
        with self._connecting:
            deadline = time.monotonic() + _RECONNECT_SECONDS
            while self._bus is None or not self._bus.is_open:
                if self._closed:
                    raise Retryable("systemd: already released; another process manages this target")
                # While it re-executes itself, nothing listens for a moment.
                if self._bus is not None and time.monotonic() > deadline:
                    self._bus = None
                try:
                    self._bus = self._open((self._bus.path,) if self._bus is not None else self._sockets)
                except (NoConnection, ConnectionLost):
                    if self._bus is None:
                        raise
                    time.sleep(_RECONNECT_PAUSE)
            return self._bus

    def _open(self, paths: Sequence[Path]) -> Bus:
        failures = []
        for path in paths:
            try:
                bus = Bus(self._on_signal, path)
            except NoConnection as error:
                failures.append(str(error))
                continue
            try:
                if self._prefix:
                    bus.subscribe()
            except Retryable:
                bus.close()
                raise
            # Only now: what was read before may be older than the first signal.
            with self._reading:
                self._known.clear()
                self._awaited.clear()
            if path != self._last_socket:
                self._last_socket = path
                _log.info("systemd.connected", socket=str(path))
            return bus
        raise NoConnection(f"systemd cannot be reached: {'; '.join(failures)}; {_REMEDY}")

    def _on_signal(self, path: str, name: str) -> None:
        # After a daemon-reload by others, our unit may have changed.
        if (path == "" or name == "Reloading") and not self._closed:
            self._wake()
        elif self._prefix and path.startswith(self._prefix):
            with self._reading:
                self._known.pop(path, None)
                self._awaited.pop(path, None)
            self._wake()


def _path(name: str) -> str:
    """The object of a unit, as systemd writes its name into a path."""
    return f"{PATH}/unit/" + re.sub(r"[^A-Za-z0-9]|^[0-9]", lambda found: f"_{ord(found[0]):02x}", name)
