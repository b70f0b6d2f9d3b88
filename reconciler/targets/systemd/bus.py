"""A connection to systemd over D-Bus: its private socket, which root may use even when no bus runs, or the system bus.

One thread reads; callers wait for their own replies. Signals are hints and carry nothing that we believe.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from concurrent.futures import TimeoutError as NoReply
from itertools import count
from pathlib import Path
from typing import Any

from jeepney import DBusAddress, HeaderFields, Message, MessageType, Parser, new_method_call
from jeepney.auth import BEGIN, AuthenticationError, Authenticator

from reconciler.errors import Retryable

PRIVATE = Path("/run/systemd/private")
SYSTEM = Path("/run/dbus/system_bus_socket")
NAME = "org.freedesktop.systemd1"
PATH = "/org/freedesktop/systemd1"
_BUS = DBusAddress("/org/freedesktop/DBus", "org.freedesktop.DBus", "org.freedesktop.DBus")
_SECONDS = 30.0
_PINGS = 100
_CHUNK = 1 << 16


class Refused(Retryable):
    """systemd answered with an error; `name` is D-Bus' name of it."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = name


class Lost(Retryable):
    """The connection broke; systemd may be executing itself anew."""


class Bus:
    """`on_signal` gets the object's path and the signal's name, or nothing in both when the connection broke.

    It is called on the reading thread.
    """

    def __init__(self, on_signal: Callable[[str, str], None], socket_path: Path | None = None) -> None:
        """Raises Retryable when nobody answers there."""
        self._on_signal = on_signal
        self._serials = count(1)
        self._waiting: dict[int, Future[Message]] = {}
        self._lock = threading.Lock()
        path = socket_path or (PRIVATE if _can_open(PRIVATE) else SYSTEM)
        self._is_peer = path.name == "private"
        self._socket = _connect(path)
        self._lost = False
        threading.Thread(target=self._read, name="systemd", daemon=True).start()
        if self._is_peer:
            self._wake_peer()
        else:
            self.call(new_method_call(_BUS, "Hello"))

    @property
    def is_open(self) -> bool:
        return not self._lost

    def subscribe(self) -> None:
        """Ask for signals. On a bus they must be asked for twice."""
        if not self._is_peer:
            rule = f"type='signal',sender='{NAME}'"
            self.call(new_method_call(_BUS, "AddMatch", "s", (rule,)))
        with contextlib.suppress(Refused):
            # Refused when this very connection asked before.
            self.manager("Subscribe")

    def manager(self, method: str, signature: str = "", *body: Any) -> tuple[Any, ...]:
        """Call a method of systemd's manager. Raises Refused, or Retryable when there is no answer."""
        address = DBusAddress(PATH, NAME, f"{NAME}.Manager")
        return self.call(new_method_call(address, method, signature, body))

    def properties(self, wanted: Sequence[tuple[str, str, str]]) -> list[Any]:
        """Values by (path, interface, name), all asked in one go; None for an object that is not there."""
        asked = [self._send(_get(*each)) for each in wanted]
        return [_value(self._wait(one)) for one in asked]

    def call(self, message: Message) -> tuple[Any, ...]:
        """The body of the reply."""
        reply = self._wait(self._send(message))
        if reply.header.message_type is MessageType.error:
            text = str(reply.body[0]) if reply.body else "it gave no reason"
            raise Refused(str(reply.header.fields.get(HeaderFields.error_name, "")), f"systemd refused: {text}")
        return tuple(reply.body)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

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
        serial = next(self._serials)
        future: Future[Message] = Future()
        with self._lock:
            # Known before it is sent: the answer may come at once.
            self._waiting[serial] = future
            try:
                self._socket.sendall(message.serialise(serial=serial))
            except OSError as error:
                self._lost = True
                self._waiting.pop(serial, None)
                raise Lost(f"systemd does not listen any more: {error.strerror}") from None
            if self._lost:
                self._waiting.pop(serial, None)
                future.cancel()
        return future

    def _wait(self, future: Future[Message]) -> Message:
        try:
            return future.result(_SECONDS)
        except NoReply:
            raise Retryable(f"systemd does not answer within {_SECONDS:g} s; see systemctl status") from None
        except CancelledError:
            raise Lost("systemd closed the connection; the next pass connects again") from None

    def _read(self) -> None:
        parser = Parser()
        with contextlib.suppress(OSError):
            while data := self._socket.recv(_CHUNK):
                parser.add_data(data)
                while (message := parser.get_next_message()) is not None:
                    self._take(message)
        with self._lock:
            # Before anybody is woken: whoever comes then must connect anew.
            self._lost = True
            waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            future.cancel()
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
    return None if reply.header.message_type is MessageType.error else reply.body[0][1]


def _can_open(path: Path) -> bool:
    return os.access(path, os.W_OK)


def _connect(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    connection.settimeout(5)
    try:
        connection.connect(str(path))
        authenticator = Authenticator()
        for data in authenticator:
            connection.sendall(data)
            authenticator.feed(connection.recv(4096))
        connection.sendall(BEGIN)
    except (OSError, AuthenticationError) as error:
        connection.close()
        raise Retryable(f"systemd does not answer at {path}: {error}; is this host run by systemd?") from None
    connection.settimeout(None)
    return connection
