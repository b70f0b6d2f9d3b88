"""What strangers cause to be logged: so many lines a minute of each kind, so that they cannot fill the log."""

from __future__ import annotations

import time

import structlog

log = structlog.get_logger()

MOST_LINES = 20
_SECONDS = 60.0


class BoundedLog:
    """For one thread. There must be few kinds: they are kept."""

    def __init__(self, left_out: str) -> None:
        """`left_out`: the event that is logged once where more would be."""
        self._left_out = left_out
        self._written: dict[tuple[str, ...], tuple[float, int]] = {}

    def may_write(self, **kind: str) -> bool:
        """Ask once for each line; `kind` goes into the line that says that some are left out."""
        key, now = tuple(kind.values()), time.monotonic()
        since, count = self._written.get(key, (now, 0))
        if now - since >= _SECONDS:
            since, count = now, 0
        self._written[key] = since, count + 1
        if count == MOST_LINES:
            log.warning(self._left_out, **kind, until="a minute is over")
        return count < MOST_LINES
