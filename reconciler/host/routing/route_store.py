"""The table of routes as a file: what the proxy was last given."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from reconciler.model import Endpoint, ReplicaId, ServiceId, ServiceRoute


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
