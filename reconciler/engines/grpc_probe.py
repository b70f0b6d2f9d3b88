"""The health of a replica that speaks gRPC: gRPC's own health service, called over HTTP/2.

One call on a connection of its own, as far as that needs HTTP/2: no answer's headers are read, only its message.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from socket import socket

from reconciler.engines.probe import ProbeResult, Vitals
from reconciler.engines.replica_connection import Guard, NoResponse, allow_until, connected, explained
from reconciler.model import Address

_CHECK = "/grpc.health.v1.Health/Check"
# The message's first field: SERVING, NOT_SERVING.
_SERVING, _NOT_SERVING = b"\x08\x01", b"\x08\x02"

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY = 0, 1, 3, 4, 6, 7
_ACK = _END_STREAM = 0x1
_END_HEADERS, _PADDED = 0x4, 0x8
_MOST_BYTES = 1 << 16
_STREAM = 1
# By HPACK's static table: `:method: POST`, `:scheme: http`; then names of it, and one that is spelled out.
_POST, _HTTP, _PATH, _AUTHORITY, _CONTENT_TYPE, _NEW_NAME = b"\x83", b"\x86", b"\x04", b"\x01", b"\x0f\x10", b"\x00"


@dataclass(frozen=True, slots=True)
class GrpcProbe:
    """Probes replicas on this host that have no HTTP server. Every call ends within its time."""

    timeout: float = 2.0
    guard: Guard | None = None

    def check(self, address: Address, _model: str, _api_key: str | None = None) -> ProbeResult:
        """Ready means: its health service returns SERVING."""
        healthy, detail = self._health(address, self.timeout)
        # Before it is ready it may say NOT_SERVING while it warms up.
        return ProbeResult(healthy is True, healthy or None, detail)

    def health(self, address: Address) -> bool | None:
        """What its health service answers; None when unknown."""
        return self._health(address, self.timeout)[0]

    def in_flight(self, _address: Address) -> int:
        """It counts nothing for others: what runs in it came by the proxy, which does."""
        return 0

    def vitals(self, _address: Address) -> Vitals | None:
        """It has none."""
        return None

    def answers(self, address: Address, _model: str, _api_key: str | None, timeout: float) -> bool:
        """Whether there is any response. Its content does not matter."""
        return self._health(address, timeout)[0] is not None

    def is_paused(self, _address: Address) -> bool:
        """Unknown."""
        return False

    def _health(self, address: Address, seconds: float) -> tuple[bool | None, str]:
        try:
            with explained(address, _CHECK, seconds), connected(address, seconds, False, self.guard) as connection:
                message = _call(connection, _CHECK, time.monotonic() + seconds)
        except NoResponse as error:
            return None, str(error)
        if message.startswith(_SERVING):
            return True, "answers"
        if message.startswith(_NOT_SERVING):
            return False, f"{_CHECK} answered NOT_SERVING"
        return None, f"{_CHECK} answered without a status"


def _call(connection: socket, path: str, deadline: float) -> bytes:
    """The message that an empty one is answered by; empty for an error. Raises OSError or NoResponse."""
    empty_message = bytes(5)
    connection.sendall(
        _PREFACE
        + _frame(_SETTINGS, 0, 0, b"")
        + _frame(_HEADERS, _END_HEADERS, _STREAM, _headers(path))
        + _frame(_DATA, _END_STREAM, _STREAM, empty_message)
    )
    found = b""
    for kind, flags, stream, payload in _frames(connection, deadline):
        if kind == _GOAWAY or (kind == _RST_STREAM and stream == _STREAM):
            raise NoResponse(f"{path} was broken off")
        if kind in (_SETTINGS, _PING) and not flags & _ACK:
            connection.sendall(_frame(kind, _ACK, 0, payload if kind == _PING else b""))
        if kind == _DATA and stream == _STREAM:
            found += _without_padding(payload) if flags & _PADDED else payload
        if kind in (_DATA, _HEADERS) and stream == _STREAM and flags & _END_STREAM:
            break
    return found[len(empty_message) :]


def _headers(path: str) -> bytes:
    return b"".join(
        (
            _POST + _HTTP,
            _PATH + _text(path),
            _AUTHORITY + _text("127.0.0.1"),
            _CONTENT_TYPE + _text("application/grpc"),
            _NEW_NAME + _text("te") + _text("trailers"),
        )
    )


def _text(value: str) -> bytes:
    """Of less than 127 bytes: a longer one has its length in several."""
    return bytes((len(value),)) + value.encode()


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload


def _frames(connection: socket, deadline: float) -> Iterator[tuple[int, int, int, bytes]]:
    """Kind, flags, stream and payload of each. Raises OSError or NoResponse."""
    left = _MOST_BYTES
    while True:
        head = _read(connection, 9, deadline)
        length = int.from_bytes(head[:3])
        left -= length + len(head)
        if left < 0:
            raise NoResponse(f"{_CHECK} answered more than {_MOST_BYTES >> 10} KiB")
        yield head[3], head[4], int.from_bytes(head[5:]) & 0x7FFFFFFF, _read(connection, length, deadline)


def _read(connection: socket, count: int, deadline: float) -> bytes:
    found = b""
    while len(found) < count:
        allow_until(deadline, connection)
        part = connection.recv(count - len(found))
        if not part:
            raise NoResponse(f"{_CHECK} did not answer: the connection was closed")
        found += part
    return found


def _without_padding(payload: bytes) -> bytes:
    return payload[1 : len(payload) - payload[0]] if payload else b""
