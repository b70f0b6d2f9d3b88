"""Which way systemd is asked: over D-Bus, and where that cannot be had, by `systemctl`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import structlog

from reconciler.host.systemd.bus import Lost, NoConnection
from reconciler.host.systemd.dbus import DBusManager
from reconciler.host.systemd.systemctl import SystemctlManager
from reconciler.host.systemd.systemd_api import Manager, Run, UnitState

# Until D-Bus is tried again.
_SECONDS = 10.0
_log = structlog.get_logger()
T = TypeVar("T")


class AnyManager:
    """Asks over D-Bus as soon and as long as that is possible. The log says once which way is used."""

    def __init__(
        self, dbus: DBusManager | None = None, systemctl: Manager | None = None, seconds: float = _SECONDS
    ) -> None:
        self._dbus = dbus or DBusManager()
        self._systemctl = systemctl or SystemctlManager()
        self._seconds = seconds
        self._again_at = 0.0
        self.way = ""
        """Which way the last question was asked, in words."""
        self.because = ""
        """Why that was not D-Bus."""

    @property
    def has_signals(self) -> bool:
        """Does this way tell by itself what happens?"""
        return bool(self.way) and not self.because

    def units(self, prefix: str) -> Mapping[str, UnitState]:
        return self._ask(lambda manager: manager.units(prefix))

    def runs(self, units: Iterable[UnitState]) -> Mapping[str, Run]:
        units = tuple(units)
        return self._ask(lambda manager: manager.runs(units))

    def processes(self, name: str) -> tuple[int, ...]:
        return self._ask(lambda manager: manager.processes(name))

    def install(self, name: str) -> None:
        self._ask(lambda manager: manager.install(name))

    def uninstall(self, name: str) -> None:
        self._ask(lambda manager: manager.uninstall(name))

    def reload(self) -> None:
        self._ask(lambda manager: manager.reload())

    def start(self, name: str) -> None:
        self._ask(lambda manager: manager.start(name))

    def stop(self, name: str) -> None:
        self._ask(lambda manager: manager.stop(name))

    def kill(self, name: str) -> None:
        self._ask(lambda manager: manager.kill(name))

    def subscribe(self, prefix: str, wake: Callable[[], None]) -> None:
        self._dbus.subscribe(prefix, wake)
        self._systemctl.subscribe(prefix, wake)

    def close(self) -> None:
        self._dbus.close()
        self._systemctl.close()

    def _ask(self, question: Callable[[Manager], T]) -> T:
        if time.monotonic() >= self._again_at:
            try:
                answer = question(self._dbus)
            except (NoConnection, Lost) as error:
                self._again_at = time.monotonic() + self._seconds
                self.because = str(error)
            else:
                self.because = ""
                self._say(f"D-Bus at {self._dbus.way}")
                return answer
        answer = question(self._systemctl)
        self._say("systemctl")
        return answer

    def _say(self, way: str) -> None:
        if way != self.way:
            self.way = way
            log = _log.bind(because=self.because) if self.because else _log
            log.info("systemd.asked_by", way=way)
