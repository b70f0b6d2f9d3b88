"""The time that records are written in: that of the wall, without its leaps and without pauses of this daemon."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_LEAP = 1.0
_TICK = 1.0
# Without a tick for so long, this process did not run: stopped, frozen with its container, or the host slept.
_PAUSE = 5.0


def _since_boot() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Clock:
    """Seconds since the epoch that pass one by one.

    When the clock of the host is set, a deadline must neither come at once nor move an hour away: a commit would
    be blamed for it, and running requests would be cut. So a leap is followed only when no deadline is pending.
    The same holds for time in which this daemon was paused, once it watches for that: what happened then was not
    observed.
    """

    def __init__(self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = _since_boot) -> None:
        self._wall = wall
        self._steady = steady
        self._offset = wall() - steady()
        self._ticked_at: float | None = None
        self._lock = threading.Lock()
        self._end = threading.Event()

    def now(self) -> float:
        with self._lock:
            steady = self._steady()
            self._leave_out_pause(steady)
            return steady + self._offset

    def watch(self) -> None:
        """Notice pauses of this process from now on, until `close`."""
        if self._ticked_at is None:
            self.tick()
            threading.Thread(target=self._run, name="clock", daemon=True).start()

    def close(self) -> None:
        self._end.set()

    def tick(self) -> None:
        """This process runs."""
        with self._lock:
            steady = self._steady()
            self._leave_out_pause(steady)
            self._ticked_at = steady

    def _run(self) -> None:
        while not self._end.wait(_TICK):
            self.tick()

    def _leave_out_pause(self, steady: float) -> None:
        if self._ticked_at is not None and steady - self._ticked_at > _PAUSE:
            self._offset -= steady - self._ticked_at
            self._ticked_at = steady

    def follow(self) -> None:
        """No deadline is pending: from now on use the wall clock."""
        if abs(self._wall() - self.now()) > _LEAP:
            with self._lock:
                self._offset = self._wall() - self._steady()
