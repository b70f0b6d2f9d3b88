"""One request to one replica of this host: bounded in time and size, and sent to no other process."""

from __future__ import annotations

import http.client
import io
import re
import socket
import ssl
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

from reconciler.model import Address
from reconciler.system.files import is_out_of_resources

# Of an answer, and of one of which only the status counts.
_MOST_BYTES, _MOST_BYTES_OF_A_LOOK = 1 << 20, 1 << 16

_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})\b")

_SENDABLE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


@dataclass(frozen=True, slots=True)
class ProbeResponse:
    """What a replica answered; `kind` is the type of its content."""

    status: int
    body: bytes
    kind: str = ""


class ForeignListener(Exception):
    """Another process than the replica listens at its address; names it."""


Guard = Callable[[], Collection[int]]
"""Which sockets listen at the replica's address, all of them its own. Raises ForeignListener."""


class NoResponse(Exception):
    """No response, or not in time; says how."""


@dataclass(frozen=True, slots=True)
class ReplicaClient:
    """`tls`: the replica ends TLS itself. With a `guard` requests are sent only to the replica."""

    timeout: float
    tls: bool
    guard: Guard | None

    def look(self, address: Address, path: str) -> int:
        """The status of an answer: every replica is asked all the time, and this costs a fifth of what `ask` does.

        Raises NoResponse.
        """
        with explained(address, path, self.timeout):
            with connected(address, self.timeout, self.tls, self.guard) as connection:
                connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
                found = _STATUS.match(_read_head(connection, time.monotonic() + self.timeout))
            if found is None:
                raise http.client.BadStatusLine("the response is not HTTP")
            return int(found[1])

    def ask(
        self,
        address: Address,
        method: str,
        path: str,
        body: bytes | None = None,
        api_key: str | None = None,
        most: int = _MOST_BYTES,
    ) -> ProbeResponse:
        """Raises NoResponse."""
        headers = {"Connection": "close", "Content-Type": "application/json"}
        if api_key:
            _check_key(api_key)
            headers["Authorization"] = f"Bearer {api_key}"
        with (
            explained(address, path, self.timeout),
            closing(_Connection(address, self.timeout, self.tls, self.guard)) as connection,
        ):
            connection.request(method, path, body, headers)
            return _read(_Incoming(connection.sock, time.monotonic() + self.timeout, most))


def _check_key(key: str) -> None:
    """Any client fails in the same way. Raises NoResponse, without the key: the HTTP library's error shows it."""
    if not _SENDABLE.fullmatch(key):
        text = (
            "the engine's API key cannot be sent by any client: a header allows no line end and only Latin-1 characters"
        )
        raise NoResponse(f"{text}; is it a line end that `echo` put behind it?")


@contextmanager
def explained(address: Address, path: str, seconds: float) -> Iterator[None]:
    """What goes wrong on the way becomes NoResponse."""
    try:
        yield
    except (ConnectionRefusedError, FileNotFoundError):
        raise NoResponse(f"nothing listens on {_named(address)} yet") from None
    except TimeoutError:
        raise NoResponse(f"{path} did not answer within {seconds:g} s") from None
    except ForeignListener as error:
        raise NoResponse(str(error)) from None
    except (OSError, UnicodeError, http.client.HTTPException) as error:
        if is_out_of_resources(error):
            raise
        raise NoResponse(f"{path} did not answer: {error or type(error).__name__}") from None


@contextmanager
def connected(address: Address, seconds: float, tls: bool, guard: Guard | None) -> Iterator[socket.socket]:
    with _connect_guarded(address, seconds, guard) as plain:
        if not tls:
            yield plain
            return
        with _any_certificate().wrap_socket(plain) as wrapped:
            yield wrapped


def _connect_guarded(address: Address, seconds: float, guard: Guard | None) -> socket.socket:
    """Raises OSError, or ForeignListener: who listened before and after is who took the connection.

    Where nothing listens no request is sent: another process may take a connection without listening (RFC 793, 3.4).
    """
    before = guard() if guard else ()
    if guard and not before:
        raise ConnectionRefusedError
    connection = _connect(address, seconds)
    try:
        if guard and guard() != before:
            raise ForeignListener(f"{_named(address)} changed hands just now")
    except BaseException:
        connection.close()
        raise
    return connection


def _connect(address: Address, seconds: float) -> socket.socket:
    """Raises OSError."""
    if isinstance(address, int):
        return socket.create_connection(("127.0.0.1", address), seconds)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(seconds)
    try:
        connection.connect(address)
    except BaseException:
        connection.close()
        raise
    return connection


def _named(address: Address) -> str:
    return f"port {address}" if isinstance(address, int) else f"the socket {address}"


def _read_head(connection: socket.socket, deadline: float) -> bytes:
    """An answer up to its body, and what came with that. Raises TimeoutError."""
    found = b""
    while b"\r\n\r\n" not in found and len(found) < _MOST_BYTES_OF_A_LOOK:
        allow_until(deadline, connection)
        part = connection.recv(1 << 12)
        if not part:
            break
        found += part
    return found


def allow_until(deadline: float, connection: socket.socket) -> None:
    """A socket's timeout restarts with every byte, so it is set to what is left. Raises TimeoutError."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    connection.settimeout(left)


class _Connection(http.client.HTTPConnection):
    """To an address of this host, with TLS or without."""

    def __init__(self, address: Address, seconds: float, tls: bool, guard: Guard | None) -> None:
        super().__init__("127.0.0.1", timeout=seconds)
        self._guard = guard
        self._address = address
        self._tls = tls

    def connect(self) -> None:
        plain = _connect_guarded(self._address, float(self.timeout or 0), self._guard)
        self.sock = _any_certificate().wrap_socket(plain) if self._tls else plain


@cache
def _any_certificate() -> ssl.SSLContext:
    """A replica listens for this host alone, and its certificate is for its clients' name of it."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class _Incoming(io.RawIOBase):
    """A response of a replica:

    up to a deadline, and of limited size. http.client does not limit headers or trailers.
    """

    def __init__(self, connection: socket.socket, deadline: float, most: int) -> None:
        self._connection = connection
        self._deadline = deadline
        self._most = self._left = most

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Raises TimeoutError."""
        allow_until(self._deadline, self._connection)
        count = self._connection.recv_into(buffer)
        self._left -= count
        if self._left < 0:
            raise http.client.HTTPException(f"more than {self._most >> 20} MiB")
        return count


def _read(incoming: _Incoming) -> ProbeResponse:
    """The whole answer. Raises TimeoutError."""
    with closing(http.client.HTTPResponse(incoming)) as response:  # type: ignore[arg-type]
        response.begin()
        # In pieces: a length that is announced is not yet a reason to have room for it.
        body = b"".join(iter(lambda: response.read1(1 << 16), b""))
        if response.length:
            raise http.client.IncompleteRead(body, response.length)
        return ProbeResponse(response.status, body, response.getheader("content-type", ""))
