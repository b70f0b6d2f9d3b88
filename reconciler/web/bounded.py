"""HTTP for untrusted clients: idle connections and slow readers do not block others."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

MOST = 64
"""So many connections are answered at a time."""
# From here on one makes room: an answer takes milliseconds.
_CROWDED = 48
_ASK_SECONDS = 10.0
_ANSWER_SECONDS = 30.0
# Answers that wait to be read, all together: the metrics of ten thousand services have some ten MiB.
_MOST_UNREAD = 64 << 20
_ASKING = (h11.IDLE, h11.SEND_BODY)


class BoundedProtocol(H11Protocol):
    """A connection has some seconds to send a request, up to the end of the body, and some to read the response."""

    is_answered_in_time: ClassVar[bool] = True
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
        asks = self.conn.their_state in _ASKING
        if asks != self._is_answered:
            return
        self._is_answered = not asks
        if asks or self.is_answered_in_time:
            self._begin(_ASK_SECONDS if asks else _ANSWER_SECONDS)
        else:
            self._end()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        while sum(map(_unread, self._all())) > _MOST_UNREAD:
            slow = [each for each in self._all() if each is not self and _unread(each)]
            if not slow:
                return
            _drop(min(slow, key=lambda each: each._since))

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
        """The client with most connections loses the one that has been reading the longest, or else writing the
        longest.
        """
        others = self._all()
        sources = Counter(_source(each) for each in others)
        _drop(min(others, key=lambda each: (-sources[_source(each)], each._is_answered, each._since)))

    def _all(self) -> list[Any]:
        return [each for each in self.connections if isinstance(each, BoundedProtocol)]


def _source(connection: Any) -> object:
    return connection.client and connection.client[0]


def _unread(connection: Any) -> int:
    return int(connection.transport.get_write_buffer_size())


def _drop(connection: Any) -> None:
    # It counts until its loss is reported, which is too late for those that come in the same moment.
    connection.connections.discard(connection)
    connection.transport.abort()
