"""What anybody on the network may ask the daemon: is it alive, is it ready, its metrics and where others are."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from reconciler.report.readiness import readiness
from reconciler.web.control import Control
from reconciler.web.discovery import scrape_targets
from reconciler.web.metrics import Metrics

DISCOVERY = "/prometheus/sd"


def public_app(control: Control, metrics: Metrics, max_heartbeat_age: float) -> Starlette:
    """`max_heartbeat_age`: seconds without a turn of the loop after which the daemon counts as stuck."""

    # Not a coroutine on purpose: status and metrics of a thousand services take milliseconds.
    def healthz(_: Request) -> Response:
        age = control.heartbeat()
        alive = age <= max_heartbeat_age
        body = {"status": "ok" if alive else "stuck", "heartbeatAgeSeconds": round(age, 3)}
        return JSONResponse(body, 200 if alive else 503)

    def readyz(_: Request) -> Response:
        found = readiness(control.status(), control.heartbeat(), max_heartbeat_age)
        body = {"status": found.word, "waitingFor": list(found.waiting_for), "failing": list(found.failing)}
        return JSONResponse(body, 503 if found.waiting_for else 200)

    def scrape(_: Request) -> Response:
        return Response(metrics.text(control.status()), headers={"Content-Type": CONTENT_TYPE_LATEST})

    def discover(_: Request) -> Response:
        return JSONResponse(scrape_targets(control.status()))

    return Starlette(
        routes=[
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/metrics", scrape),
            Route(DISCOVERY, discover),
        ]
    )
