"""What we ask of systemd, whichever way it is asked. `dbus` and `systemctl` are the ways, `ways` chooses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

_EXITED = 1


@dataclass(frozen=True, slots=True)
class UnitState:
    """One loaded unit in systemd's words. `job` says what is about to be done to it: `start`, `stop`, `restart`…"""

    name: str
    active: str
    sub: str
    job: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """The main process of a unit, now or at last.

    `started` is in microseconds since boot and 0 for a unit that never ran; `exit_code` is negative for a signal.
    `restarts` counts how often systemd itself started it again since somebody else did.
    """

    pid: int = 0
    started: int = 0
    exit_code: int | None = None
    restarts: int = 0


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


def run_of(pid: int, started: int, code: int, status: int, restarts: int) -> Run:
    """What systemd's numbers say about a main process; `code` is how `waitid` put it."""
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
    """Was it told to end, or told to start and does not run yet? Without a job it ends by itself."""
    return unit.active in ("deactivating", "inactive", "failed") and bool(unit.job)
