"""A real https server for files, on loopback: with ranges and checksums or without, and with doors that are closed."""

from __future__ import annotations

import hashlib
import ssl
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.source.https_server import answering

TYPES = {".gz": "application/gzip", ".zip": "application/zip", ".tar": "application/x-tar"}


class FileServer(ThreadingHTTPServer):
    """Serves `files` by path. `token`, where set, must stand in the header X-Token."""

    daemon_threads = True

    def __init__(self, certificate: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.has_ranges = True
        self.tells_digest = ""
        self.token = ""
        self.status = 0
        self.kind = ""
        # Where each path has moved to.
        self.moved: dict[str, str] = {}
        # The tokens that came with every request, empty where there was none.
        self.tokens: list[str] = []
        # The Range header of every request, empty where there was none.
        self.asked: list[str] = []
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that are killed are what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    server: FileServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server, path = self.server, self.path.partition("?")[0]
        server.asked.append(self.headers.get("Range", ""))
        server.tokens.append(self.headers.get("X-Token", ""))
        if server.token and self.headers.get("X-Token") != server.token:
            return self._send(403, {}, b"")
        if path in server.moved:
            return self._send(302, {"Location": server.moved[path]}, b"")
        if server.status or path not in server.files:
            return self._send(server.status or 404, {}, b"")
        data = server.files[path]
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()[:16]}"'}
        headers["Content-Type"] = server.kind or TYPES.get(Path(path).suffix, "application/octet-stream")
        if server.tells_digest:
            headers["Repr-Digest"] = f"sha-256=:{server.tells_digest}:"
        if not (server.has_ranges and self.headers.get("Range")):
            return self._send(200, headers, data)
        first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
        part = data[int(first) : int(last) + 1 if last else None]
        headers["Content-Range"] = f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}"
        return self._send(206, headers, part)

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


def serve_files(certificate: Path) -> AbstractContextManager[FileServer]:
    """A server that answers until the block ends."""
    return answering(FileServer(certificate))
