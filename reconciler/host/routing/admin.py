"""Envoy's own word about itself, from its admin socket, which can be put back when it was deleted.

Envoy makes its socket once. Without its name it cannot be configured any more, though it keeps serving.
"""

from __future__ import annotations

import errno
import http.client
import json
import os
import re
import socket
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reconciler.errors import Retryable
from reconciler.host.routing.bootstrap import CLUSTER, GRPC, PASSTHROUGH, ROUTES, STATS
from reconciler.host.routing.endpoints import read_address
from reconciler.model import Address, Routed
from reconciler.system.unix_sockets import exact_path

SOCKET = "admin.sock"
OWN = "admin"
"""The folder of the socket of a proxy that has a user of its own: nothing else is that user's to write."""
# In a folder of its own: what sweeps sockets out of the proxy's folder leaves this one.
_KEPT = Path("kept") / SOCKET
_PLACES = (Path(OWN) / SOCKET, Path(SOCKET))


def connect(folder: Path, timeout: float) -> socket.socket:
    """To the Envoy of this folder. One that was started by an older release listens in the folder itself."""
    problem: OSError | None = None
    for place in _PLACES:
        try:
            return _connect(folder, place, timeout)
        except OSError as error:
            # A socket that exists says more than one that does not.
            problem = error if problem is None or isinstance(problem, FileNotFoundError) else problem
    raise problem or FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))


def keep(folder: Path) -> None:
    """Give the socket its second name. A failure is retried at the next check."""
    kept = folder / _KEPT
    with suppress(OSError):
        named = next((place for place in _PLACES if _listens(folder, place)), Path(SOCKET))
        kept.parent.mkdir(mode=0o700, exist_ok=True)
        if kept.exists() and os.path.samestat(kept.lstat(), (folder / named).lstat()):
            return
        _link(folder / named, kept)


def restore(folder: Path) -> bool:
    """Restore the first name, whatever is in its place. False: nothing was to be done."""
    kept = folder / _KEPT
    named = folder / _PLACES[0 if (folder / OWN).is_dir() else 1]
    try:
        # What another Envoy left is a name of nothing, and must not take the place of a new one.
        if any(_listens(folder, place) for place in _PLACES) or not _listens(folder, _KEPT):
            return False
        _link(kept, named)
    except OSError:
        return False
    return True


def forget(folder: Path) -> None:
    """Another Envoy makes another socket."""
    for place in (*_PLACES, _KEPT):
        with suppress(OSError):
            (folder / place).unlink()


def _listens(folder: Path, place: Path) -> bool:
    try:
        _connect(folder, place, 0).close()
    except BlockingIOError:
        return True
    except OSError:
        return False
    return True


def _connect(folder: Path, place: Path, timeout: float) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout)
        with exact_path(folder / place) as near:
            connection.connect(near)
    except OSError:
        connection.close()
        raise
    return connection


def _link(old: Path, new: Path) -> None:
    half = new.with_name(f"{new.name}.new")
    half.unlink(missing_ok=True)
    os.link(old, half, follow_symlinks=False)
    half.replace(new)


_CLUSTERS = "/clusters?format=json"
_UPDATES = "/stats?format=json&filter=(version_text|update_rejected|update_failure)$"
_ACTIVE = f"/stats?format=json&filter=^(http.{STATS}.downstream_rq_active|cluster.{PASSTHROUGH}.upstream_cx_active)$"
# Envoy counts requests for paths that are not open for all services together, in both filters.
_CLOSED = f"http.{STATS}.rbac.denied"
# Only services that ever refused anything are listed.
_REFUSED = f"/stats?format=json&usedonly&filter=(%5C.route%5C..*%5C.upstream_rq_503|^{_CLOSED})$"
_ROUTE = re.compile(r"\.route\.([^.]+)\.upstream_rq_503$")
# Far more than of a full host; the sender may not be trusted.
_MOST = 64 << 20
# The files that Envoy watches, and where it counts what became of them.
_SCOPES = {
    "lds": "listener_manager.lds",
    "cds": "cluster_manager.cds",
    "eds": f"cluster.{CLUSTER}",
    "grpc": f"cluster.{GRPC}",
    "tls": f"cluster.{PASSTHROUGH}",
    "rds": f"http.{STATS}.rds.{ROUTES}",
}


@dataclass(frozen=True, slots=True)
class EndpointState:
    """One replica at the proxy. `in_flight` counts requests; None is unknown, never zero."""

    routed: Routed
    in_flight: int | None


@dataclass(frozen=True, slots=True)
class Uptake:
    """What Envoy made of one file: the version it runs, and how many it refused since it started."""

    version: str
    refused: int


@dataclass(frozen=True, slots=True)
class RefusedRequests:
    """How many requests got 503, by service, and how many were for a closed path."""

    by_service: Mapping[str, int]
    closed_paths: int


class Admin:
    """Queries one Envoy. Every method raises Retryable when it does not respond in time."""

    def __init__(self, folder: Path, timeout: float = 2.0) -> None:
        self._folder = folder
        self._timeout = timeout

    def is_live(self) -> bool:
        """Whether Envoy has all it needs to serve."""
        return self._ask("/ready")[0].strip() == b"LIVE"

    def uptakes(self) -> dict[str, Uptake]:
        """What became of each watched file."""
        with _understood():
            return _uptakes(json.loads(self._ask(_UPDATES)[0]))

    def survey(self) -> tuple[dict[Address, EndpointState], dict[str, Uptake]]:
        """Every endpoint by address, and what became of each watched file."""
        # In this order: an Envoy that had read its endpoints before it was asked for them names them all.
        updates, clusters = self._ask(_UPDATES, _CLUSTERS)
        with _understood():
            return _endpoints(json.loads(clusters)), _uptakes(json.loads(updates))

    def stop_listening(self) -> None:
        """From now on new connections are refused, and each open one is closed after its next response; permanently."""
        self._ask("/healthcheck/fail", "/drain_listeners", method="POST")

    def active(self) -> int:
        """How many requests run, and connections that are passed through as they are."""
        with _understood():
            stats = json.loads(self._ask(_ACTIVE)[0])["stats"]
            return sum(int(stat["value"]) for stat in stats if "name" in stat)

    def refused(self) -> RefusedRequests:
        """What it refused since it started."""
        with _understood():
            return _refused(json.loads(self._ask(_REFUSED)[0]))

    def _ask(self, *paths: str, method: str = "GET") -> list[bytes]:
        connection = _UnixConnection(self._folder, self._timeout)
        try:
            return [connection.fetch(path, method) for path in paths]
        except (OSError, http.client.HTTPException) as error:
            where = self._folder / SOCKET
            raise Retryable(f"the proxy is not responding on {where}: {error or type(error).__name__}") from error
        finally:
            connection.close()


@contextmanager
def _understood() -> Iterator[None]:
    """Raises Retryable for an answer that Envoy does not give."""
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise Retryable(f"the proxy's admin socket sent an unexpected response: {error!r}"[:300]) from error


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, folder: Path, timeout: float) -> None:
        super().__init__("admin", timeout=timeout)
        self._folder = folder
        self._seconds = timeout

    def connect(self) -> None:
        self.sock = connect(self._folder, self._seconds)

    def fetch(self, path: str, method: str) -> bytes:
        self.request(method, path)
        response = self.getresponse()
        body = response.read(_MOST)
        if response.read(1):
            raise http.client.HTTPException(f"{path} answered more than {_MOST} bytes")
        # Not ready is an answer too.
        if response.status not in (200, 503):
            raise http.client.HTTPException(f"{path} answered {response.status}")
        return body


def _uptakes(stats: Any) -> dict[str, Uptake]:
    values: Mapping[str, Any] = {stat["name"]: stat["value"] for stat in stats["stats"] if "name" in stat}
    return {name: _uptake(scope, values) for name, scope in _SCOPES.items()}


def _refused(stats: Any) -> RefusedRequests:
    """A service has routes under several host names."""
    found: Counter[str] = Counter()
    closed = 0
    for counter in stats["stats"]:
        name = counter.get("name", "")
        if match := _ROUTE.search(name):
            found[match[1]] += int(counter["value"])
        elif name == _CLOSED:
            closed = int(counter["value"])
    return RefusedRequests(dict(found), closed)


def _uptake(scope: str, values: Mapping[str, Any]) -> Uptake:
    refused = sum(int(values.get(f"{scope}.{counter}", 0)) for counter in ("update_rejected", "update_failure"))
    return Uptake(str(values.get(f"{scope}.version_text", "")), refused)


def _endpoints(clusters: Any) -> dict[Address, EndpointState]:
    hosts = {cluster["name"]: cluster.get("host_statuses", ()) for cluster in clusters.get("cluster_statuses", ())}
    passed = {read_address(host["address"]): _gauge(host, "cx_active") for host in hosts.get(PASSTHROUGH, ())}
    asked = (*hosts.get(CLUSTER, ()), *hosts.get(GRPC, ()))
    found = ((read_address(host["address"]), host) for host in asked)
    return {address: _endpoint(host, passed.get(address, 0)) for address, host in found}


def _endpoint(host: Any, passed: int | None) -> EndpointState:
    """`passed`: connections that are passed through. Their requests cannot be seen, so each counts as one."""
    is_active = host["health_status"].get("eds_health_status") == "HEALTHY"
    requests = _gauge(host, "rq_active")
    in_flight = None if requests is None or passed is None else requests + passed
    return EndpointState(Routed.ACTIVE if is_active else Routed.DRAINING, in_flight)


def _gauge(host: Any, name: str) -> int | None:
    # Protobuf's JSON leaves out zeros, so a gauge without a value is a zero; a missing gauge is not.
    found = [stat for stat in host.get("stats", ()) if stat["name"] == name]
    return int(found[0].get("value", 0)) if found else None
