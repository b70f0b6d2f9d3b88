"""What monitoring asks: liveness, readiness, metrics, service discovery for the metrics of replicas, and these."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import TypeAlias
from weakref import WeakValueDictionary

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from reconciler.engines.probe import Probe
from reconciler.report.convergence import readiness
from reconciler.web.control import Control
from reconciler.web.json_responses import JSONResponse
from reconciler.web.metrics import PASSED_ON, Metrics, find_replica, scrape_targets
from reconciler.web.shared import Shared

DISCOVERY = "/prometheus/sd"
# So many replicas are asked at a time: slow ones leave threads for all other answers.
_MOST_SCRAPES = 8
# Of several kinds in one line browsers take the last.
_METRICS = re.compile(r"(?:text/plain|application/openmetrics-text)(?:; ?[a-z]+=[A-Za-z0-9._-]+)*")
# Of a model's code, which may send anything: in a browser it would be a page from here, with all that pages here may.
_NO_PAGE = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "default-src 'none'; sandbox"}
_Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]


def monitoring_routes(control: Control, metrics: Metrics, scheme: str, max_heartbeat_age: float) -> Iterator[Route]:
    """`scheme`: by which the port is asked. `max_heartbeat_age`: seconds after which the loop counts as stuck."""
    yield Route("/healthz", _health(control, max_heartbeat_age))
    yield Route("/readyz", _shared(partial(_readiness, control, max_heartbeat_age)))
    yield Route("/metrics", _shared(partial(_scrape, control, metrics)))
    yield Route(DISCOVERY, _discovery(control, scheme))
    yield Route(f"{PASSED_ON}/{{target}}/{{replica}}", _metrics_of_replicas(control), methods=["GET"])


def _health(control: Control, max_heartbeat_age: float) -> _Endpoint:
    # In no thread: it must not wait for one.
    async def answer(_: Request) -> Response:
        age = control.heartbeat()
        alive = age <= max_heartbeat_age
        body = {"status": "ok" if alive else "stuck", "heartbeatAgeSeconds": round(age, 3)}
        return JSONResponse(body, 200 if alive else 503)

    return answer


def _shared(work_out: Callable[[], Response]) -> _Endpoint:
    shared = Shared(work_out)

    async def answer(_: Request) -> Response:
        return await shared.get()

    return answer


def _readiness(control: Control, max_heartbeat_age: float) -> Response:
    found = readiness(control.status(), control.heartbeat(), max_heartbeat_age)
    body = {"status": found.status, "waitingFor": list(found.waiting_for), "failing": list(found.failing)}
    return JSONResponse(body, 503 if found.waiting_for else 200)


def _scrape(control: Control, metrics: Metrics) -> Response:
    return Response(metrics.text(control.status()), headers={"Content-Type": CONTENT_TYPE_LATEST})


def _discovery(control: Control, scheme: str) -> _Endpoint:
    # By the addresses of this host.
    known: dict[str, Shared[Response]] = {}

    def discover(address: str) -> Response:
        return JSONResponse(scrape_targets(control.status(), address, scheme))

    async def answer(request: Request) -> Response:
        address = _address_of(request)
        return await known.setdefault(address, Shared(partial(discover, address))).get()

    return answer


def _address_of(request: Request) -> str:
    """Where we were asked."""
    host, port = request.scope["server"]
    host = host.removeprefix("::ffff:")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _metrics_of_replicas(control: Control) -> _Endpoint:
    slots = asyncio.Semaphore(_MOST_SCRAPES)
    # Of each path that is asked for just now.
    locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def answer(request: Request) -> Response:
        # An unresponsive replica takes one slot, however often it is scraped.
        path = request.scope["path"]
        lock = locks.setdefault(path, asyncio.Lock())
        async with lock, slots:
            return await run_in_threadpool(_pass_on, control, path)

    return answer


def _pass_on(control: Control, path: str) -> Response:
    """A replica's own metrics. Nothing that the client said reaches it."""
    found = find_replica(control.status(), path)
    if found is None:
        return Response("no such replica\n", 404)
    replica, where = found
    response = Probe(tls=replica["tls"]).scrape(replica["socket"] or replica["port"], where)
    if response is None or response.status != 200:
        return Response("the replica's metrics are not available\n", 502)
    kind = response.kind if _METRICS.fullmatch(response.kind) else CONTENT_TYPE_LATEST
    return Response(response.body, headers={"Content-Type": kind, **_NO_PAGE})
