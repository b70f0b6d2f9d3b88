"""The part of Hugging Face's hub that a download asks: its real one is out of reach of a test."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "c0ffee" * 6 + "abcd"


class Hub(ThreadingHTTPServer):
    """One repository, `org/model`, for whoever knows the token. Files ending in `.safetensors` are large files."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes], token: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files, self.token = files, token
        self.lies = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def sha256(self, name: str) -> str:
        return hashlib.sha256(b"another" if self.lies else self.files[name]).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = self.path.partition("?")[0]
        if self.headers.get("Authorization") != f"Bearer {self.server.token}":
            return self._send(401, {"X-Error-Code": "GatedRepo"}, b"{}")
        if "/tree/" in path:
            return self._send(200, {"Content-Type": "application/json"}, json.dumps(self._tree()).encode())
        if path.startswith("/api/models/org/model"):
            return self._send(200, {"Content-Type": "application/json"}, json.dumps(self._repository()).encode())
        name = path.removeprefix(f"/org/model/resolve/{COMMIT}/")
        if name not in self.server.files:
            return self._send(404, {"X-Error-Code": "EntryNotFound"}, b"")
        tag = f'"{self.server.sha256(name)}"'
        return self._send(200, {"X-Repo-Commit": COMMIT, "ETag": tag}, self.server.files[name])

    def _repository(self) -> dict[str, object]:
        siblings = []
        for name, data in self.server.files.items():
            large = {"sha256": self.server.sha256(name), "size": len(data), "pointerSize": 130}
            more = {"lfs": large} if name.endswith(".safetensors") else {}
            siblings.append({"rfilename": name, "size": len(data), "blobId": "b" * 40, **more})
        return {"id": "org/model", "_id": "1", "sha": COMMIT, "siblings": siblings, "tags": [], "private": False}

    def _tree(self) -> list[dict[str, object]]:
        found = []
        for name, data in self.server.files.items():
            large = {"oid": self.server.sha256(name), "size": len(data), "pointerSize": 130}
            more = {"lfs": large} if name.endswith(".safetensors") else {}
            found.append({"type": "file", "path": name, "size": len(data), "oid": "b" * 40, **more})
        return found

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


@contextmanager
def serve_hub(files: dict[str, bytes], token: str) -> Iterator[Hub]:
    """A hub that answers until the block ends."""
    hub = Hub(files, token)
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()
