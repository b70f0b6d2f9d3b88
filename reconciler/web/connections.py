"""Connections to the daemon's port and socket: no client, and no crowd of them, keeps others from being answered."""

from __future__ import annotations

import asyncio
import socket
from asyncio.sslproto import SSLProtocol
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from reconciler.web.tls import Certificate

MOST = 128
"""So many connections are answered at a time, beside those of pages that stay open for events."""
# From here on one makes room: an answer takes milliseconds.
_CROWDED = 112
MOST_STREAMS = 220
"""So many pages are kept fresh at a time."""
_ASK_SECONDS = 10.0
_ANSWER_SECONDS = 30.0
# Events are short: of a stream that nobody reads, little waits in memory and in the kernel.
_STREAM_BUFFER = 4096
# Milliseconds until a stream is lost whose other end has vanished.
_VANISHED = 30_000
# Answers that wait to be read, all together: the metrics of ten thousand services have some ten MiB.
_MOST_UNREAD = 64 << 20
# When we end, clients have so long to agree that a connection is over.
_CLOSE_SECONDS = 0.1
_TLS_BUFFER = 16 << 10
_ASKING = (h11.IDLE, h11.SEND_BODY)


class BoundedProtocol(H11Protocol):
    """A connection has some seconds to send a request, up to the end of the body, and some to read the response."""

    is_answered_in_time: ClassVar[bool] = True
    _deadline: asyncio.TimerHandle | None = None
    _is_answered = False
    _since = 0.0
    _end_stream: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._begin(_ASK_SECONDS)
        if len(self._ordinary()) > _CROWDED:
            self._make_room()

    def handle_events(self) -> None:
        super().handle_events()
        if self.scope is not None:
            self.scope["state"]["connection"] = self
        asks = self.conn.their_state in _ASKING
        if asks != self._is_answered:
            return
        self._is_answered = not asks
        if asks or self.is_answered_in_time:
            self._begin(_ASK_SECONDS if asks else _ANSWER_SECONDS)
        else:
            self._end()

    def send_400_response(self, msg: str) -> None:
        """Of a body that turns out to be no HTTP, while or after the request is answered: what is said of it must not
        be said twice, which would be an error of ours in the log."""
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        with suppress(h11.LocalProtocolError):
            super().send_400_response(msg)
        self.transport.close()

    def on_response_complete(self) -> None:
        self._end_stream = None
        super().on_response_complete()
        while sum(map(_unread, self._all())) > _MOST_UNREAD:
            slow = [each for each in self._all() if each is not self and _unread(each)]
            if not slow:
                return
            _drop(min(slow, key=lambda each: each._since))

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()
        super().connection_lost(exc)
        self._finish_stream()

    def shutdown(self) -> None:
        super().shutdown()
        self._finish_stream()

    def begin_stream(self, end: Callable[[], None]) -> bool:
        """See `StreamConnection`. The client with most streams loses its oldest, to one that has fewer."""
        streams = [each for each in self._all() if each._end_stream]
        if len(streams) >= MOST_STREAMS:
            sources = Counter(_source(each) for each in streams)
            greedy, most = sources.most_common(1)[0]
            if sources[_source(self)] + 1 >= most:
                return False
            _drop(min((each for each in streams if _source(each) == greedy), key=lambda each: each._since))
        self._end()
        self._end_stream = end
        self.transport.set_write_buffer_limits(high=_STREAM_BUFFER)
        connection = self.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _STREAM_BUFFER)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _VANISHED)
        return True

    def abort(self) -> None:
        self.transport.abort()

    def _finish_stream(self) -> None:
        if self._end_stream is not None:
            self._end_stream()
            if _unread(self):
                self.transport.abort()

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
        others = self._ordinary()
        sources = Counter(_source(each) for each in others)
        _drop(min(others, key=lambda each: (-sources[_source(each)], each._is_answered, each._since)))

    def _all(self) -> list[Any]:
        return [each for each in self.connections if isinstance(each, BoundedProtocol)]

    def _ordinary(self) -> list[Any]:
        return [each for each in self._all() if each._end_stream is None]


def _source(connection: Any) -> object:
    return connection.client and connection.client[0]


def _unread(connection: Any) -> int:
    return int(connection.transport.get_write_buffer_size())


def _drop(connection: Any) -> None:
    # It counts until its loss is reported, which is too late for those that come in the same moment.
    connection.connections.discard(connection)
    connection.transport.abort()


class TlsProtocol(BoundedProtocol):
    """The same over TLS. A handshake is part of asking: a client that does not finish it counts among the others, and
    has no more time than they. asyncio's own server would neither count it nor let us end it."""

    def __init__(self, certificate: Certificate, **known: Any) -> None:
        super().__init__(**known)
        self._certificate = certificate
        self._is_encrypted = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Of the plain connection, and again by TLS once its handshake is done."""
        self._is_encrypted = transport.get_extra_info("sslcontext") is not None
        super().connection_made(transport)
        if not self._is_encrypted:
            self._shake_hands(transport)

    def shutdown(self) -> None:
        super().shutdown()
        self.loop.call_later(_CLOSE_SECONDS, self._close_now)

    def _close_now(self) -> None:
        # TLS waits for the other end to say so as well.
        if self.transport.is_closing() and not _unread(self):
            self.transport.abort()

    def _shake_hands(self, transport: asyncio.Transport) -> None:
        done = self.loop.create_future()
        done.add_done_callback(self._on_handshake)
        context = self._certificate.context()
        tls = _Tls(self.loop, self, context, done, server_side=True, ssl_shutdown_timeout=_ANSWER_SECONDS)
        transport.set_write_buffer_limits(high=_TLS_BUFFER)
        transport.set_protocol(tls)
        tls.connection_made(transport)

    def _on_handshake(self, done: asyncio.Future[None]) -> None:
        # Of one that fails TLS says nothing else to us.
        if done.cancelled() or done.exception() is not None or not self._is_encrypted:
            self._end()
            self.connections.discard(self)


class _Tls(SSLProtocol):
    # The original reads into 256 KiB, which each open page would cost us.
    max_size = _TLS_BUFFER
