"""A real git server over https on loopback: git's own http-backend behind the standard library's server."""

from __future__ import annotations

import base64
import os
import ssl
import subprocess
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TypeVar

Server = TypeVar("Server", bound=ThreadingHTTPServer)


class GitServer(ThreadingHTTPServer):
    """Serves the bare repositories of a folder to clients with the password."""

    daemon_threads = True
    password: str
    root: Path
    redirect_to = ""
    redirected_paths = "/"
    hold_fetches: threading.Event | None = None
    # Seconds that each twentieth of what is fetched takes.
    drip = 0.0
    # Speaks as if it had no git of its own: whoever asks takes the files one by one.
    dumb = False

    def __init__(self, root: Path, password: str, certificate: Path, address: str) -> None:
        super().__init__((address, 0), _Handler)
        self.root, self.password = root, password
        # (path, login) of every request; login is None where none was sent.
        self.seen: list[tuple[str, str | None]] = []
        self.fetching = threading.Event()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        # A client that vanishes in the middle of its handshake keeps only its own thread waiting.
        self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up in the middle are what some tests are about; a test that fails shows what happened."""
        traceback.print_exc()


class _Handler(BaseHTTPRequestHandler):
    server: GitServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self._body())

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _answer(self, body: bytes) -> None:
        login = self.headers.get("Authorization")
        known = base64.b64decode(login.removeprefix("Basic ")).decode() if login else None
        self.server.seen.append((self.path, known))
        if self.server.redirect_to and self.path.startswith(self.server.redirected_paths):
            rest = self.path.removeprefix(self.server.redirected_paths)
            return self._send(302, {"Location": f"{self.server.redirect_to}/{rest}"}, b"")
        if known is None or known.partition(":")[2] != self.server.password:
            return self._send(401, {"WWW-Authenticate": 'Basic realm="git"'}, b"")
        if b"command=fetch" in body and self.server.hold_fetches is not None:
            self.server.fetching.set()
            self.server.hold_fetches.wait(60)
        return self._backend(body, drip=self.server.drip if b"command=fetch" in body else 0.0)

    def _backend(self, body: bytes, drip: float) -> None:
        path, _, query = self.path.partition("?")
        variables = {
            "GIT_PROJECT_ROOT": str(self.server.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "PATH_INFO": path,
            "QUERY_STRING": "" if self.server.dumb else query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "REMOTE_USER": "tester",
            "PATH": os.environ["PATH"],
        }
        done = subprocess.run(["git", "http-backend"], input=body, env=variables, capture_output=True, check=False)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().splitlines())
        self._send(int(headers.pop("Status", "200").split()[0]), headers, content, drip)

    def _send(self, status: int, headers: dict[str, str], content: bytes, drip: float = 0.0) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        length = len(content) // 20 + 1 if drip else max(1, len(content))
        for begin in range(0, len(content), length):
            time.sleep(drip)
            self.wfile.write(content[begin : begin + length])

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


def make_certificate(folder: Path, address: str = "127.0.0.1") -> tuple[Path, Path]:
    """A CA and, signed by it, a server certificate with its key for the address and localhost: (ca, server)."""
    ca, server = folder / "ca.pem", folder / "server.pem"
    openssl = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]
    _quietly([*openssl, "-subj", "/CN=Test CA", "-keyout", f"{folder}/ca.key", "-out", str(ca)])
    signed = ["-CA", str(ca), "-CAkey", f"{folder}/ca.key", "-addext", "basicConstraints=critical,CA:FALSE"]
    names = ["-subj", "/CN=localhost", "-addext", f"subjectAltName=IP:{address},DNS:localhost"]
    _quietly([*openssl, *names, *signed, "-keyout", f"{folder}/server.key", "-out", str(server)])
    server.write_text(server.read_text() + (folder / "server.key").read_text())
    return ca, server


def _quietly(argv: list[str]) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def serve(
    root: Path, password: str, certificate: Path, address: str = "127.0.0.1"
) -> AbstractContextManager[GitServer]:
    """A server that answers until the block ends."""
    return answering(GitServer(root, password, certificate, address))


@contextmanager
def answering(server: Server) -> Iterator[Server]:
    """In a thread of its own, until the block ends."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
