"""A registry of images on this machine, and images that are made for it: one layer of a few files."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import threading
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_CONFIG = "application/vnd.docker.container.image.v1+json"
_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


class Registry:
    """Serves what `add` was given, to whoever asks, without TLS and passwords.

    `pulled` are the manifests that were asked for. While `open` is not set, whoever asks for more has to wait.
    """

    def __init__(self) -> None:
        self._blobs: dict[str, bytes] = {}
        self._manifests: dict[tuple[str, str], bytes] = {}
        self.pulled: list[str] = []
        self.open = threading.Event()
        self.open.set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def add(
        self, name: str, tag: str, files: Mapping[str, str], env: Mapping[str, str], command: Sequence[str] = ()
    ) -> str:
        """An image whose root is these files: executable ones, links (`-> TARGET`) and folders (ending in `/`).

        Returns its digest.
        """
        layer = _layer(files)
        config = {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Env": [f"{key}={value}" for key, value in env.items()], "Cmd": list(command)},
            "rootfs": {"type": "layers", "diff_ids": [_digest(gzip.decompress(layer))]},
        }
        written = json.dumps(config).encode()
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": _MANIFEST,
                "config": {"mediaType": _CONFIG, "size": len(written), "digest": self._keep(written)},
                "layers": [{"mediaType": _LAYER, "size": len(layer), "digest": self._keep(layer)}],
            }
        ).encode()
        for reference in (tag, _digest(manifest)):
            self._manifests[name, reference] = manifest
        return _digest(manifest)

    def close(self) -> None:
        self.open.set()
        self._server.shutdown()
        self._server.server_close()

    def _keep(self, data: bytes) -> str:
        self._blobs[_digest(data)] = data
        return _digest(data)

    def answer(self, path: str) -> tuple[int, str, bytes]:
        """Status, type and body."""
        parts = path.strip("/").split("/")
        if parts == ["v2"]:
            return 200, "application/json", b"{}"
        name, kind, reference = "/".join(parts[1:-2]), parts[-2], parts[-1]
        if kind == "manifests":
            self.pulled.append(f"{name}:{reference}")
            if found := self._manifests.get((name, reference)):
                return 200, _MANIFEST, found
        elif reference in self._blobs and self.open.wait(300):
            return 200, "application/octet-stream", self._blobs[reference]
        return 404, "application/json", b'{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}'

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, kind, body = registry.answer(self.path.partition("?")[0])
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Docker-Content-Digest", _digest(body))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            def do_HEAD(self) -> None:
                self.do_GET()

            def log_message(self, *_: object) -> None:
                pass

        return Handler


def _layer(files: Mapping[str, str]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for path, text in files.items():
            entry = tarfile.TarInfo(path.rstrip("/"))
            entry.mode = 0o755
            if path.endswith("/"):
                entry.type = tarfile.DIRTYPE
            elif text.startswith("-> "):
                entry.type, entry.linkname = tarfile.SYMTYPE, text.removeprefix("-> ")
            entry.size = len(text.encode()) if entry.isreg() else 0
            tar.addfile(entry, io.BytesIO(text.encode()) if entry.isreg() else None)
    return gzip.compress(packed.getvalue(), mtime=0)


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()
