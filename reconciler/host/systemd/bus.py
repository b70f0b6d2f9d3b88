"""A connection to systemd over D-Bus: its private socket, which root may use even when no bus runs, or the system bus.

jeepney's connection sends and receives. Its router would not do: when a connection breaks, one waiting thread gets a
KeyError and the others learn nothing; and it cannot send a second call before the first has returned. So one thread
reads here, and callers wait for their own replies. Signals are hints and carry nothing that we believe.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from concurrent.futures import TimeoutError as NoReply
from pathlib import Path
from typing import Any

import structlog
from jeepney import DBusAddress, HeaderFields, Message, MessageType, new_method_call
from jeepney.auth import AuthenticationError
from jeepney.io.blocking import prep_socket
from jeepney.io.threading import DBusConnection

from reconciler.errors import Retryable

PRIVATE = Path("/run/systemd/private")
SYSTEM = Path("/run/dbus/system_bus_socket")
NAME = "org.freedesktop.systemd1"
PATH = "/org/freedesktop/systemd1"
_BUS = DBusAddress("/org/freedesktop/DBus", "org.freedesktop.DBus", "org.freedesktop.DBus")
_SECONDS = 30.0
_GREETING_SECONDS = 5.0
_PINGS = 100
# The system bus allows at most 128 pending replies per connection.
_AT_A_TIME = 100
_ERROR = "org.freedesktop.DBus.Error."
# The bus answers for systemd, which is not there for a moment: it re-executes itself.
_AWAY = tuple(_ERROR + name for name in ("NoReply", "ServiceUnknown", "NameHasNoOwner", "Disconnected", "Spawn."))
# Only these mean that there is no such unit. Taking another error for that would take a serving unit for dead.
_NOT_THERE = (f"{_ERROR}UnknownObject", f"{_ERROR}UnknownInterface", f"{NAME}.NoSuchUnit")
_log = structlog.get_logger()


class DBusError(Retryable):
    """systemd answered with an error; `name` is D-Bus' name of it."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = name


class NoConnection(Retryable):
    """Nothing answers at this socket."""


class ConnectionLost(Retryable):
    """The connection broke; systemd may be re-executing itself."""


class Bus:
    """`on_signal` gets the object's path and the signal's name, or nothing in both when the connection broke.

    It is called on the reading thread.
    """

    def __init__(self, on_signal: Callable[[str, str], None], path: Path) -> None:
        """Raises NoConnection."""
        self.path = path
        self._on_signal = on_signal
        self._waiting: dict[int, Future[Message]] = {}
        self._lock = threading.Lock()
        self._is_peer = path.name == "private"
        self._connection = _connect(path)
        self._lost = False
        threading.Thread(target=self._read, name="systemd", daemon=True).start()
        try:
            if self._is_peer:
                self._wake_peer()
            else:
                self.call(new_method_call(_BUS, "Hello"))
        except Retryable as error:
            self.close()
            raise NoConnection(f"nothing answers at {path}: {error}") from None

    @property
    def is_open(self) -> bool:
        return not self._lost

    def subscribe(self) -> None:
        """Subscribe to signals. On a bus this takes two calls."""
        if not self._is_peer:
            rule = f"type='signal',sender='{NAME}'"
            self.call(new_method_call(_BUS, "AddMatch", "s", (rule,)))
        try:
            self.manager("Subscribe")
        except DBusError as error:
            if error.name != f"{NAME}.AlreadySubscribed":
                raise

    def manager(self, method: str, signature: str = "", *body: Any) -> tuple[Any, ...]:
        """Call a method of systemd's manager. Raises Refused, or Retryable when there is no reply."""
        address = DBusAddress(PATH, NAME, f"{NAME}.Manager")
        return self.call(new_method_call(address, method, signature, body))

    def properties(self, wanted: Sequence[tuple[str, str, str]]) -> list[Any]:
        """Values by (path, interface, name), with pipelined calls; None for an object that does not exist."""
        asked: deque[Future[Message]] = deque()
        values = []
        for each in wanted:
            if len(asked) == _AT_A_TIME:
                values.append(_value(self._wait(asked.popleft())))
            asked.append(self._send(_get(*each)))
        return values + [_value(self._wait(one)) for one in asked]

    def call(self, message: Message) -> tuple[Any, ...]:
        """The body of the reply."""
        reply = self._wait(self._send(message))
        if reply.header.message_type is MessageType.error:
            raise _refusal(reply)
        return tuple(reply.body)

    def close(self) -> None:
        with self._lock:
            self._lost = True
        with contextlib.suppress(OSError):
            self._connection.sock.shutdown(socket.SHUT_RDWR)

    # ------------------------------------------------------------ messages

    def _wake_peer(self) -> None:
        """systemd overlooks what it reads together with the end of the greeting, until more comes."""
        ping = new_method_call(DBusAddress(PATH, NAME, "org.freedesktop.DBus.Peer"), "Ping")
        asked = []
        for _ in range(_PINGS):
            asked.append(self._send(ping))
            if wait(asked, timeout=0.05, return_when=FIRST_COMPLETED).done:
                return
        raise Retryable("systemd does not answer on its private socket; see systemctl status")

    def _send(self, message: Message) -> Future[Message]:
        serial = next(self._connection.outgoing_serial)
        future: Future[Message] = Future()
        with self._lock:
            if self._lost:
                raise ConnectionLost("systemd closed the connection; the next pass connects again")
            # Known before it is sent: the answer may come at once.
            self._waiting[serial] = future
        try:
            self._connection.send(message, serial=serial)
        except OSError as error:
            # Part of it may have been sent: nothing else can be said on this connection.
            self.close()
            with self._lock:
                self._waiting.pop(serial, None)
            raise ConnectionLost(f"systemd does not listen any more: {error.strerror}") from None
        return future

    def _wait(self, future: Future[Message]) -> Message:
        try:
            return future.result(_SECONDS)
        except NoReply:
            raise Retryable(f"systemd does not answer within {_SECONDS:g} s; see systemctl status") from None
        except CancelledError:
            raise ConnectionLost("systemd closed the connection; the next pass connects again") from None

    def _read(self) -> None:
        try:
            with contextlib.suppress(OSError):
                while True:
                    self._take(self._connection.receive())
        except Exception:
            # Waiting threads must not wait for a thread that died in silence.
            _log.exception("systemd_message_unreadable", socket=str(self.path))
        finally:
            self._end()

    def _end(self) -> None:
        with self._lock:
            # Before any thread is woken: the next caller must connect again.
            self._lost = True
            waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            future.cancel()
        with self._connection.send_lock:
            # Not during a write: the number of the socket may belong to another file right after.
            _close(self._connection)
        self._on_signal("", "")

    def _take(self, message: Message) -> None:
        fields = message.header.fields
        if message.header.message_type is MessageType.signal:
            self._on_signal(str(fields.get(HeaderFields.path, "")), str(fields.get(HeaderFields.member, "")))
            return
        with self._lock:
            future = self._waiting.pop(fields.get(HeaderFields.reply_serial, 0), None)
        if future is not None:
            future.set_result(message)


def _get(path: str, interface: str, name: str) -> Message:
    address = DBusAddress(path, NAME, "org.freedesktop.DBus.Properties")
    return new_method_call(address, "Get", "ss", (f"{NAME}.{interface}", name))


def _value(reply: Message) -> Any:
    if reply.header.message_type is not MessageType.error:
        return reply.body[0][1]
    if _error_name(reply) in _NOT_THERE:
        return None
    raise _refusal(reply)


def _refusal(reply: Message) -> Retryable:
    text = str(reply.body[0]) if reply.body else "it gave no reason"
    name = _error_name(reply)
    if name.startswith(_AWAY):
        return ConnectionLost(f"systemd is not on the bus: {text}")
    return DBusError(name, f"systemd refused: {text}")


def _error_name(reply: Message) -> str:
    return str(reply.header.fields.get(HeaderFields.error_name, ""))


def _connect(path: Path) -> DBusConnection:
    try:
        connection = prep_socket(str(path), timeout=_GREETING_SECONDS)
    except (OSError, AuthenticationError) as error:
        why = getattr(error, "strerror", None) or error
        raise NoConnection(f"nothing answers at {path}: {why}") from None
    # Reading may take forever, writing not: a peer that reads nothing for so long is gone.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(_SECONDS), 0))
    return DBusConnection(connection)


def _close(connection: DBusConnection) -> None:
    connection.close()
    # jeepney leaves its pipe open: two descriptors for every time that systemd re-executes itself.
    for end in (connection._stop_r, connection._stop_w):
        os.close(end)
