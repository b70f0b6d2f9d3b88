"""The daemon's HTTP side: a TCP port that anybody may read and a unix socket for the owner, safe from strangers.

The sockets are bound in the caller's thread, so that an address that cannot be is an error at start. A port that is in
use is none: any user of the host may take one, and the daemon drives the host all the same. Nor is a full disk, which
has no room for the name of a socket: both are tried again and again.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import h11
import structlog
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from reconciler.config.settings import Settings
from reconciler.config.values import split_listen
from reconciler.errors import ReconcileError, Retryable, SettingsError
from reconciler.system.unix_sockets import answers, identity, peer, peer_uid, short_path
from reconciler.web.app import public_app
from reconciler.web.control import Control, control_app
from reconciler.web.live import Live
from reconciler.web.login.credentials import grant_sources
from reconciler.web.login.sessions import Sessions
from reconciler.web.metrics import Metrics

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


log = structlog.get_logger()

_STOP_SECONDS = 3.0
_AGAIN_SECONDS = 1.0


class WebSide:
    """Both servers. `start()` returns when they accept; `stop()` takes well under a second."""

    def __init__(self, settings: Settings, control: Control, metrics: Metrics) -> None:
        self._settings = settings
        self.live = Live(control.status)
        """Keeps open pages fresh. Whoever started this starts it, wakes it and stops it."""
        auth = settings.web.auth
        self._sessions = Sessions(settings.state_dir, auth.session, grant_sources(auth))
        app = public_app(control, metrics, settings, self.live, self._sessions)
        self._public = _server(app, BoundedProtocol)
        self._owner = _server(control_app(control), _OwnersOnly)
        self._thread = threading.Thread(target=self._run, name="web", daemon=True)
        self._socket_id: tuple[int, int] | None = None
        self._reported = self._reported_of_socket = ""
        self._unix: socket.socket | None = None
        self.address = ("", 0)
        """Host and port that are really listened on; none while another process has the port."""

    def start(self) -> None:
        """Raises SettingsError for an address that cannot be, Retryable where another daemon answers."""
        tcp = self._listen_tcp()
        try:
            self._unix = self._listen_unix()
        except BaseException:
            if tcp is not None:
                tcp.close()
            raise
        self._tcp = tcp
        self._thread.start()

    def stop(self) -> None:
        self._public.end()
        self._owner.end()
        if self._thread.is_alive():
            self._thread.join(_STOP_SECONDS)
        self._sessions.close()
        # A successor may already have put its own socket there.
        if self._socket_id and identity(self._settings.socket_path) == self._socket_id:
            self._settings.socket_path.unlink(missing_ok=True)

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception:
            log.exception("web_stopped")

    async def _serve(self) -> None:
        await asyncio.gather(self._serve_public(), self._serve_owner())

    async def _serve_owner(self) -> None:
        """As soon as the disk has room."""
        while self._unix is None and not self._owner.should_exit:
            await asyncio.sleep(_AGAIN_SECONDS)
            with suppress(ReconcileError):
                self._unix = self._listen_unix()
        if self._unix is not None:
            await self._owner.serve([self._unix])

    def _listen_unix(self) -> socket.socket | None:
        """None while the disk is full. Raises SettingsError, or Retryable."""
        path = self._settings.socket_path
        try:
            found = listen_unix(path)
        except DiskFull as error:
            if str(error) != self._reported_of_socket:
                log.error("control_not_listening", error=str(error), instead="the daemon continues without it")
            self._reported_of_socket = str(error)
            return None
        self._socket_id = identity(path)
        if self._reported_of_socket:
            log.info("control_listening", socket=str(path))
        return found

    async def _serve_public(self) -> None:
        """As soon as the port is free."""
        while self._tcp is None and not self._public.should_exit:
            await asyncio.sleep(_AGAIN_SECONDS)
            with suppress(ReconcileError):
                self._tcp = self._listen_tcp()
        if self._tcp is not None:
            await self._public.serve([self._tcp])

    def _listen_tcp(self) -> socket.socket | None:
        """None while another process has the port. Raises SettingsError, or Retryable."""
        listen = self._settings.web.listen
        try:
            found = _listen_tcp(listen)
        except _InUse as error:
            if str(error) != self._reported:
                log.error("web_not_listening", error=str(error), instead="the control socket still works")
            self._reported = str(error)
            return None
        self.address = found.getsockname()[:2]
        if self._reported:
            log.info("web_listening", listen=listen)
        return found


class DiskFull(Retryable):
    """No space for the name of a socket."""


class _InUse(Retryable):
    """Another process has the port."""


class _WebServer(uvicorn.Server):
    """Sleeps until it is to end: the original polls ten times a second, which is most of what an idle daemon costs."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended = asyncio.Event()

    async def main_loop(self) -> None:
        # In this order, and `end` in the other one: the second sees the first.
        self._loop = asyncio.get_running_loop()
        if not self.should_exit:
            await self._ended.wait()

    def end(self) -> None:
        """From any thread, and before it began as well."""
        self.should_exit = True
        if self._loop is not None:
            with suppress(RuntimeError):
                # The loop may be over already.
                self._loop.call_soon_threadsafe(self._ended.set)


def _server(app: ASGIApp, protocol: type[asyncio.Protocol]) -> _WebServer:
    config = uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        lifespan="off",
        loop="asyncio",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        limit_concurrency=MOST + MOST_STREAMS,
        backlog=64,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=1,
    )
    return _WebServer(config)


class _OwnersOnly(BoundedProtocol):
    """Only the daemon's own user and root, whatever the socket's mode. A response may take as long as git does."""

    is_answered_in_time = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        connection = transport.get_extra_info("socket")
        if peer_uid(connection) not in (os.geteuid(), 0):
            transport.abort()
        pid, user = peer(connection)
        # In the place of an address: who asks. Its name may have to be asked of another host, so not here.
        self.client = (str(user), pid)


def _listen_tcp(listen: str) -> socket.socket:
    host, port = split_listen(listen)
    try:
        family, *_, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        both = host == "::" and socket.has_dualstack_ipv6()
        listener = socket.create_server(place[:2], family=family, backlog=64, dualstack_ipv6=both)
    except socket.gaierror as error:
        raise SettingsError(f"web.listen: cannot resolve {host}: {error.strerror}") from None
    except OSError as error:
        kind = _InUse if error.errno == errno.EADDRINUSE else Retryable
        raise kind(
            f"web.listen: cannot listen on {listen}: {error.strerror}; "
            "stop the process that uses it, or choose another port"
        ) from None
    listener.setblocking(False)
    return listener


def listen_unix(path: Path) -> socket.socket:
    """A listening socket at `path` that only our user can open; what a dead daemon left there is replaced.

    It is bound under another name and renamed into place once its mode is set: no one can connect in between.
    Raises Retryable when a living daemon answers there, DiskFull, and SettingsError when the place is impossible.
    """
    if answers(path):
        raise Retryable(f"another daemon is running on {path}; stop it first, or give this one its own state_dir")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    temporary = path.with_name(f".{os.getpid()}.sock")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        with short_path(temporary) as near:
            listener.bind(near)
        temporary.chmod(0o600)
        listener.listen(64)
        temporary.replace(path)
    except OSError as error:
        listener.close()
        temporary.unlink(missing_ok=True)
        text = f"socket: cannot listen on {path}: {error.strerror or error}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"{text}; free some space") from None
        raise SettingsError(text) from None
    listener.setblocking(False)
    return listener
