"""The time that records are written in: that of the wall, without its leaps."""

from __future__ import annotations

import time
from collections.abc import Callable

_LEAP = 1.0


def _since_boot() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Clock:
    """Seconds since the epoch that pass one by one.

    When somebody sets the clock of the host, a deadline must neither come at once nor move an hour away: a commit would
    be blamed for it, and running requests would be cut. So a leap is followed only when nobody waits for a deadline.
    """

    def __init__(self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = _since_boot) -> None:
        self._wall = wall
        self._steady = steady
        self._offset = wall() - steady()

    def now(self) -> float:
        return self._steady() + self._offset

    def follow(self) -> None:
        """Nobody waits: from now on it is as late as the wall says."""
        if abs(self._wall() - self.now()) > _LEAP:
            self._offset = self._wall() - self._steady()
