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
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import cast

import structlog
import uvicorn
from starlette.types import ASGIApp

from reconciler.config.settings import Settings
from reconciler.config.values import split_listen
from reconciler.errors import ReconcileError, Retryable, SettingsError
from reconciler.system.unix_sockets import answers, identity, peer, peer_uid, short_path
from reconciler.web.app import public_app
from reconciler.web.connections import MOST, MOST_STREAMS, BoundedProtocol, TlsProtocol
from reconciler.web.control import Control, control_app
from reconciler.web.login.credentials import grant_sources
from reconciler.web.login.sessions import Sessions
from reconciler.web.metrics import Metrics
from reconciler.web.pages.live import Live
from reconciler.web.tls import Certificate

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
        tls = settings.web.tls
        self._public = _server(app, partial(TlsProtocol, Certificate(tls)) if tls else BoundedProtocol)
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


def _server(app: ASGIApp, protocol: Callable[..., asyncio.Protocol]) -> _WebServer:
    config = uvicorn.Config(
        app,
        http=cast(type[asyncio.Protocol], protocol),
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
