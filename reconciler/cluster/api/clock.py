"""The API server's clock beside this machine's: times in objects are the server's."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime
from typing import Final

# Clocks that NTP keeps differ by less, and what a server says has whole seconds.
_LEAST_SKEW: Final = 2.0
# Seconds; a clock that is set is soon known.
_NOTED_FOR: Final = 10.0


class ServerClock:
    """What answers tell of it. For any number of threads."""

    def __init__(self) -> None:
        self.skew = 0.0
        self._noted_at = -_NOTED_FOR

    def now(self) -> float:
        """Its time, in seconds since 1970."""
        return time.time() + self.skew

    def note(self, began: float, date: str) -> None:
        """An answer to what was sent at `began`, by this machine's clock, says that it was `date`."""
        if time.monotonic() - self._noted_at < _NOTED_FOR:
            return
        self._noted_at = time.monotonic()
        skew = certain_skew(began, time.time(), date)
        self.skew = skew if skew is not None and abs(skew) >= _LEAST_SKEW else 0.0


def certain_skew(began: float, ended: float, date: str) -> float | None:
    """By how many seconds the server's clock is certainly ahead of ours, or behind it (negative).

    `Date` has whole seconds, and the answer takes its time, from `began` to `ended`. None: it does not say its time.
    """
    try:
        server = parsedate_to_datetime(date).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
    ahead, behind = server - ended, began - (server + 1)
    return ahead if ahead > 0 else -behind if behind > 0 else 0.0
