"""HTTP for strangers: connections that say nothing, or are read too slowly, keep no one else from an answer."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

MOST = 64
"""So many connections are answered at a time."""
# From here on the one that stands still for longest makes room: an answer takes milliseconds.
_CROWDED = 48
_ASK_SECONDS = 10.0
_ANSWER_SECONDS = 30.0


class BoundedProtocol(H11Protocol):
    """A connection has some seconds to ask, up to the end of the headers, and some to read the answer."""

    _deadline: asyncio.TimerHandle | None = None
    _is_answered = False
    _since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._begin(_ASK_SECONDS)
        if len(self.connections) > _CROWDED:
            self._make_room()

    def handle_events(self) -> None:
        super().handle_events()
        asks = self.conn.their_state is h11.IDLE
        if asks == self._is_answered:
            self._is_answered = not asks
            self._begin(_ASK_SECONDS if asks else _ANSWER_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()
        super().connection_lost(exc)

    def _begin(self, seconds: float) -> None:
        self._end()
        self._since = self.loop.time()
        self._deadline = self.loop.call_later(seconds, self.transport.abort)

    def _end(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _make_room(self) -> None:
        others: list[Any] = [each for each in self.connections if isinstance(each, BoundedProtocol)]
        oldest = min(others, key=lambda each: each._since)
        # It counts until it is told that it is lost, which is too late for those that come in the same moment.
        self.connections.discard(oldest)
        oldest.transport.abort()
