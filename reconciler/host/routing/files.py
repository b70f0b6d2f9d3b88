"""The proxy's files: always whole, and among them the routes that it was last told."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from reconciler.errors import Retryable
from reconciler.model import Endpoint, ReplicaId, ServiceId, ServiceRoute
from reconciler.system.files import cannot, write_atomically
from reconciler.system.files import replace_file as replace_bytes

# The folder says who may enter; a proxy with a user of its own reads as a member of its group.
_MODE = 0o640


def write_file(path: Path, text: str) -> None:
    """Puts a text in place, unless it is there already. Raises Retryable."""
    with _said(path):
        write_atomically(path, text.encode(), _MODE, _group(path))


def replace_file(path: Path, text: str) -> None:
    """Puts a text in place even if it is unchanged: Envoy then reads it again. Raises Retryable."""
    with _said(path):
        replace_bytes(path, text.encode(), _MODE, _group(path))


def read_file(path: Path) -> str | None:
    """The content, or None if there is none that can be read as text."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _group(path: Path) -> int:
    """Its folder's. We cannot set the bit for that: our unit has RestrictSUIDSGID."""
    return path.parent.stat().st_gid if os.geteuid() == 0 else -1


@contextmanager
def _said(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Retryable(cannot(error, path, "written", "is the disk full?")) from error


def dump_routes(routes: Iterable[ServiceRoute]) -> str:
    """JSON text; the same routes give the same text."""
    return json.dumps({"routes": [asdict(route) for route in sorted(routes, key=lambda r: r.service)]}, indent=1)


def load_routes(text: str) -> tuple[ServiceRoute, ...]:
    """The inverse of `dump_routes`. Raises ValueError for anything else."""
    try:
        return tuple(_route(entry) for entry in json.loads(text)["routes"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a table of routes: {error}") from error


def _route(entry: Any) -> ServiceRoute:
    return ServiceRoute(
        service=ServiceId(**entry["service"]),
        stable=tuple(map(_endpoint, entry["stable"])),
        canary=tuple(map(_endpoint, entry["canary"])),
        canary_percent=int(entry["canary_percent"]),
        request_timeout=entry["request_timeout"],
        guarded=bool(entry.get("guarded")),
        passthrough=bool(entry.get("passthrough")),
        left_at=entry.get("left_at"),
        open_paths=tuple(map(str, entry.get("open_paths", ()))),
        is_new=bool(entry.get("is_new")),
        model_names=tuple(map(str, entry.get("model_names", ()))),
        canary_names=tuple(map(str, entry.get("canary_names", ()))),
        grpc=bool(entry.get("grpc")),
        http=bool(entry.get("http", True)),
    )


def _endpoint(entry: Any) -> Endpoint:
    replica = ReplicaId(ServiceId(**entry["replica"]["service"]), entry["replica"]["serial"])
    tls, where, grpc = bool(entry.get("tls")), str(entry.get("socket", "")), bool(entry.get("grpc"))
    beside = int(entry.get("grpc_port", 0))
    return Endpoint(replica, int(entry["port"]), bool(entry["draining"]), tls, where, grpc, beside)
