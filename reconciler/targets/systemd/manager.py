"""What we ask of systemd, and the way over D-Bus to ask it."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from reconciler.errors import Retryable
from reconciler.targets.systemd.bus import PATH, Bus, Lost, Refused

_GONE = ("org.freedesktop.systemd1.NoSuchUnit", "org.freedesktop.systemd1.NoSuchProcess")
_RUN = ("MainPID", "ExecMainStartTimestampMonotonic", "ExecMainCode", "ExecMainStatus")
_EXITED = 1
_RECONNECT_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class UnitState:
    """One loaded unit in systemd's words. `has_job`: it is about to start or to stop."""

    name: str
    active: str
    sub: str
    has_job: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """The main process of a unit, now or at last.

    `started` is in microseconds since boot and 0 for a unit that never ran; `exit_code` is negative for a signal.
    """

    pid: int = 0
    started: int = 0
    exit_code: int | None = None


_NOT_READ = Run()
T = TypeVar("T")


class Manager(Protocol):
    """systemd. Every method raises Retryable when it does not answer or refuses; a unit that is not there is fine."""

    def units(self, prefix: str) -> Mapping[str, UnitState]:
        """The loaded services whose names begin so. Those that ended well are soon not loaded any more."""

    def runs(self, units: Iterable[UnitState]) -> Mapping[str, Run]:
        """Their main processes."""

    def processes(self, name: str) -> tuple[int, ...]:
        """Everything that runs in a unit."""

    def install(self, name: str) -> None:
        """Read a unit's file, and have it started at every boot."""

    def uninstall(self, name: str) -> None:
        """Have it started no more; its file goes after that, by `reload`."""

    def reload(self) -> None:
        """Read all files again."""

    def start(self, name: str) -> None:
        """Begin to start it; does not wait."""

    def stop(self, name: str) -> None:
        """Begin to stop it; does not wait."""

    def kill(self, name: str) -> None:
        """SIGKILL to everything in it."""

    def subscribe(self, prefix: str, wake: Callable[[], None]) -> None:
        """Call `wake` from another thread when one of these units may have changed."""

    def close(self) -> None:
        """Let go of the connection."""


class DBusManager:
    """Connects when it is first needed, and again after systemd executed itself anew."""

    def __init__(self, connect: Callable[[Callable[[str, str], None]], Bus] = Bus) -> None:
        self._connect = connect
        self._bus: Bus | None = None
        self._connecting = threading.RLock()
        self._paths = ""
        self._wake: Callable[[], None] = lambda: None
        self._closed = False
        # What was read of a unit stays true until a signal comes from it. Without signals nothing stays true.
        self._known: dict[str, tuple[UnitState, Run]] = {}
        self._reading = threading.Lock()

    def units(self, prefix: str) -> Mapping[str, UnitState]:
        rows = self._call("ListUnitsByPatterns", "asas", [], [f"{prefix}*.service"])[0]
        return {row[0]: UnitState(row[0], row[3], row[4], bool(row[7])) for row in rows}

    def runs(self, units: Iterable[UnitState]) -> Mapping[str, Run]:
        found: dict[str, Run] = {}
        missing: dict[str, UnitState] = {}
        with self._reading:
            for unit in units:
                known = self._known.get(_path(unit.name))
                if known is not None and known[0] == unit and known[1] is not _NOT_READ:
                    found[unit.name] = known[1]
                else:
                    # A signal takes this away again: then what is read now may be older than the signal.
                    self._known[_path(unit.name)] = (unit, _NOT_READ)
                    missing[unit.name] = unit
        wanted = [(_path(name), "Service", word) for name in missing for word in _RUN]
        values = self._ask(lambda bus: bus.properties(wanted))
        for at, (name, unit) in enumerate(missing.items()):
            found[name] = run = _run(*values[at * len(_RUN) : (at + 1) * len(_RUN)])
            with self._reading:
                if self._paths and _path(name) in self._known:
                    self._known[_path(name)] = (unit, run)
        return found

    def processes(self, name: str) -> tuple[int, ...]:
        try:
            return tuple(row[1] for row in self._call("GetUnitProcesses", "s", name)[0])
        except Refused:
            # Not loaded, so nothing runs in it.
            return ()

    def install(self, name: str) -> None:
        self._call("EnableUnitFiles", "asbb", [name], False, True)
        self.reload()

    def uninstall(self, name: str) -> None:
        with suppress(Refused):
            self._call("DisableUnitFiles", "asb", [name], False)

    def reload(self) -> None:
        self._call("Reload")

    def start(self, name: str) -> None:
        self._call("StartUnit", "ss", name, "replace")

    def stop(self, name: str) -> None:
        self._if_loaded("StopUnit", "ss", name, "replace")
        self._if_loaded("ResetFailedUnit", "s", name)

    def kill(self, name: str) -> None:
        self._if_loaded("KillUnit", "ssi", name, "all", 9)

    def subscribe(self, prefix: str, wake: Callable[[], None]) -> None:
        self._paths, self._wake = _path(prefix), wake
        with suppress(Retryable), self._connecting:
            if self._bus is not None and self._bus.is_open:
                self._bus.subscribe()
            else:
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
        try:
            return question(self._opened())
        except Lost:
            return question(self._opened())

    def _if_loaded(self, method: str, signature: str, *body: object) -> None:
        try:
            self._call(method, signature, *body)
        except Refused as error:
            if error.name not in _GONE:
                raise

    def _opened(self) -> Bus:
        with self._connecting:
            deadline = time.monotonic() + _RECONNECT_SECONDS
            while self._bus is None or not self._bus.is_open:
                first = self._bus is None
                try:
                    self._open()
                except Retryable:
                    # While it executes itself anew, nobody listens for a moment.
                    if first or time.monotonic() > deadline:
                        raise
                    time.sleep(0.05)
            return self._bus

    def _open(self) -> None:
        bus = self._connect(self._on_signal)
        if self._paths:
            bus.subscribe()
        with self._reading:
            self._known.clear()
        self._bus = bus

    def _on_signal(self, path: str, name: str) -> None:
        # Whoever has files read again may have changed ours.
        if (path == "" or name == "Reloading") and not self._closed:
            self._wake()
        elif self._paths and path.startswith(self._paths):
            with self._reading:
                self._known.pop(path, None)
            self._wake()


def _run(pid: int | None, started: int | None, code: int | None, status: int | None) -> Run:
    if not started:
        return Run()
    if not code:
        return Run(pid or 0, started)
    return Run(pid or 0, started, (status or 0) if code == _EXITED else -(status or 0))


def _path(name: str) -> str:
    """The object of a unit, as systemd writes its name into a path."""
    return f"{PATH}/unit/" + re.sub(r"[^A-Za-z0-9]|^[0-9]", lambda found: f"_{ord(found[0]):02x}", name)
