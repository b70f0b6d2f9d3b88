"""How many requests a second we send: a token bucket, shared by all threads of one connection."""

from __future__ import annotations

import threading
import time


class Limiter:
    """`qps` requests a second, `burst` of them at once; a `qps` of 0 sets no limit."""

    def __init__(self, qps: float, burst: int) -> None:
        self._qps = qps
        self._burst = max(1, burst)
        self._lock = threading.Lock()
        # When the bucket would be full again; each request moves it on.
        self._full_at = time.monotonic()

    def wait(self) -> None:
        """Returns when the next request may be sent; those who wait are let through in the order they came."""
        if self._qps > 0 and (pause := self._take(time.monotonic())) > 0:
            time.sleep(pause)

    def _take(self, now: float) -> float:
        """Take one token; how long until it is there."""
        with self._lock:
            self._full_at = max(now, self._full_at) + 1 / self._qps
            return self._full_at - now - self._burst / self._qps
