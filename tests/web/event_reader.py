"""A browser's side of `/events`, on a real socket. It may wait in vain, and go on afterwards."""

from __future__ import annotations

import json
import socket
import time
from email.message import Message
from email.parser import BytesParser
from types import TracebackType
from urllib.parse import urlencode

from reconciler.web.server import WebSide


class EventReader:
    """One open stream. `last`: the event that was seen last; `source`: the loopback address that it comes from;
    `cookie`: what it shows."""

    def __init__(
        self,
        web: WebSide,
        page: str = "",
        *,
        since: str = "",
        last: str = "",
        source: str = "127.0.0.1",
        cookie: str = "",
    ) -> None:
        query = urlencode({key: value for key, value in (("page", page), ("since", since)) if value})
        more = f"Last-Event-ID: {last}\r\n" if last else ""
        more += f"Cookie: {cookie}\r\n" if cookie else ""
        self.socket = socket.create_connection(web.address, 10, (source, 0))
        self.socket.sendall(f"GET /events?{query} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n".encode())
        self.id = ""
        self._raw = self._text = b""
        self.is_over = False
        first, _, head = self._until(b"\r\n\r\n", 10).partition(b"\r\n")
        self.status = int(first.split()[1])
        self.headers: Message = BytesParser().parsebytes(head)

    def message(self, seconds: float = 10) -> dict[str, str]:
        """The next block: its fields, a comment under the name `""`. Raises TimeoutError; empty at the end."""
        until = time.monotonic() + seconds
        while b"\n\n" not in self._text:
            if self.is_over:
                return {}
            self._read_chunk(until - time.monotonic())
        block, _, self._text = self._text.partition(b"\n\n")
        fields = {}
        for line in block.decode().splitlines():
            name, _, value = line.partition(":")
            fields[name] = value.strip()
        self.id = fields.get("id", self.id)
        return fields

    def topics(self, seconds: float = 10) -> list[str]:
        """What the next event names. Raises TimeoutError."""
        until = time.monotonic() + seconds
        while True:
            found = self.message(until - time.monotonic())
            if "data" in found and "event" not in found:
                return list(json.loads(found["data"]))
            if not found:
                raise EOFError("the stream is over")

    def is_quiet(self, seconds: float = 0.6) -> bool:
        try:
            self.topics(seconds)
        except TimeoutError:
            return True
        return False

    def is_closed(self, seconds: float = 5) -> bool:
        """Has the stream ended, or does within this time?"""
        until = time.monotonic() + seconds
        try:
            while self.message(until - time.monotonic()):
                pass
        except TimeoutError:
            return False
        except ConnectionError:
            return True
        return True

    def close(self) -> None:
        self.socket.close()

    def _read_chunk(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        length = int(self._until(b"\r\n", seconds, keep=True), 16)
        while (start := self._raw.index(b"\r\n") + 2) + length + 2 > len(self._raw):
            self._receive(until - time.monotonic())
        self._text += self._raw[start : start + length]
        self._raw = self._raw[start + length + 2 :]
        self.is_over = length == 0

    def _until(self, mark: bytes, seconds: float, *, keep: bool = False) -> bytes:
        until = time.monotonic() + seconds
        while mark not in self._raw:
            self._receive(until - time.monotonic())
        found, _, rest = self._raw.partition(mark)
        self._raw = self._raw if keep else rest
        return found

    def _receive(self, seconds: float) -> None:
        self.socket.settimeout(max(0.001, seconds))
        got = self.socket.recv(1 << 16)
        if not got:
            raise ConnectionResetError("closed before the end of the stream")
        self._raw += got

    def __enter__(self) -> EventReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self.close()
