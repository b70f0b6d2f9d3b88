"""An HTTPS server on loopback that answers as a forge's API would: what it answers is the test's."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

from reconciler.forge.http import Http
from tests.controlplane.certificates import Authority
from tests.source.https_server import answering

TOKEN = "token-of-the-tests"
SLOWLY = 0.02
"""Seconds between two bytes of a slow answer."""


@dataclass(frozen=True)
class Asked:
    """One request. `path` is quoted still, without the query; header names are in small letters; `body`: its JSON,
    if that is what it is; `raw`: its body as it came."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Any
    raw: bytes = b""


@dataclass(frozen=True)
class Reply:
    """`body`: goes out as JSON; as it is, where it is bytes. `slow`: what of it is sent a byte now and then."""

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    slow: Literal["", "head", "body"] = ""


class LocalForge(ThreadingHTTPServer):
    """`answer` runs in one thread at a time. `url` has no slash at its end; `asked`: every request so far; `ahead`:
    seconds that its clock is ahead of ours."""

    daemon_threads = True
    ahead = 0.0

    def __init__(self, folder: Path, answer: Callable[[Asked], Reply]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        authority = Authority(folder)
        self.ca_file = authority.certificate
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*authority.server("forge"))
        self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self.answer, self.asked = answer, list[Asked]()
        self.url = f"https://127.0.0.1:{self.server_port}"
        self.turn = threading.Lock()

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that do not trust us hang up."""

    def http(self, path: str = "", timeout: float = 10.0) -> Http:
        """To `path` there, with a token."""
        login = {"Authorization": f"Bearer {TOKEN}"}
        return Http(self.url + path, lambda: login, called="the forge", ca_file=self.ca_file, timeout=timeout)


def local_forge(folder: Path, answer: Callable[[Asked], Reply]) -> AbstractContextManager[LocalForge]:
    """One that answers until the block ends. `folder`: for its certificates; another forge may have made them."""
    return answering(LocalForge(folder, answer))


class _Handler(BaseHTTPRequestHandler):
    server: LocalForge
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def _serve(self) -> None:
        where = urlsplit(self.path)
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        query = dict(parse_qsl(where.query, keep_blank_values=True))
        body = json.loads(raw) if raw and "json" in headers.get("content-type", "") else None
        asked = Asked(self.command, where.path, query, headers, body, raw)
        with self.server.turn:
            self.server.asked.append(asked)
            reply = self.server.answer(asked)
        self._send(reply)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815

    def _send(self, reply: Reply) -> None:
        data = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        data = b"" if reply.body is None else data
        self.send_response(reply.status)
        for name, value in {"Content-Length": str(len(data)), **reply.headers}.items():
            self.send_header(name, value)
        if reply.slow == "head":
            self._write_slowly(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Much: " + 60 * b"x" + b"\r\n\r\n")
            return
        self.end_headers()
        if reply.slow:
            self._write_slowly(data)
        else:
            self.wfile.write(data)

    def _write_slowly(self, data: bytes) -> None:
        for at in range(len(data)):
            self.wfile.write(data[at : at + 1])
            time.sleep(SLOWLY)

    def date_time_string(self, timestamp: float | None = None) -> str:
        return formatdate((time.time() if timestamp is None else timestamp) + self.server.ahead, usegmt=True)

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing: what was asked stands in `asked`."""
