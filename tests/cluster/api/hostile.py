"""A TLS server that answers as no API server should, or as one does only at its worst."""

from __future__ import annotations

import base64
import http.server
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

import yaml

from tests.controlplane.certificates import Authority


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection. `answer` of the server decides on each request."""

    protocol_version = "HTTP/1.1"
    answer: ClassVar[Callable[[Handler], None]]
    asked: ClassVar[list[str]]
    body: bytes

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        self.asked.append(f"{self.command} {self.path}")
        with suppress(OSError):
            type(self).answer(self)

    do_PATCH = do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815

    def reply(self, code: int, body: bytes | dict[str, Any], kind: str = "application/json", **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    """Its handler has what it was asked."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are what these tests are about."""


@contextmanager
def serving(authority: Authority, answer: Callable[[Handler], None]) -> Iterator[tuple[str, list[str]]]:
    """The URL of a server with a certificate of the authority, and what it is asked."""
    asked: list[str] = []
    handler = type("Answering", (Handler,), {"answer": staticmethod(answer), "asked": asked})
    certificate, key = authority.server("hostile")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with Server(("127.0.0.1", 0), handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"https://127.0.0.1:{server.server_address[1]}", asked
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def silent() -> Iterator[str]:
    """The URL of a port that accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"https://127.0.0.1:{listener.getsockname()[1]}"


def write_kubeconfig(
    folder: Path, server: str, authority: Authority, user: dict[str, Any] | None = None, **cluster: Any
) -> Path:
    data = base64.b64encode(authority.certificate.read_bytes()).decode()
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "tests",
        "clusters": [{"name": "there", "cluster": {"server": server, "certificate-authority-data": data, **cluster}}],
        "users": [{"name": "me", "user": {"token": "secret-token"} if user is None else user}],
        "contexts": [{"name": "tests", "context": {"cluster": "there", "user": "me"}}],
    }
    file = folder / "kubeconfig"
    file.write_text(yaml.safe_dump(content))
    return file
