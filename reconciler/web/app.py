"""The public endpoints: the pages, liveness, readiness, metrics, service discovery for replicas' metrics, webhooks."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from functools import partial
from weakref import WeakValueDictionary

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from reconciler.config.settings import Settings
from reconciler.engines.probe import Probe
from reconciler.report.convergence import readiness
from reconciler.web.control import Control
from reconciler.web.gate import Gate
from reconciler.web.json_responses import JSONResponse
from reconciler.web.login.credentials import Credentials, Tokens
from reconciler.web.login.logins import Logins
from reconciler.web.login.routes import login_routes
from reconciler.web.login.sessions import Sessions
from reconciler.web.metrics import PASSED_ON, Metrics, find_replica, scrape_targets
from reconciler.web.pages.actions import action_routes
from reconciler.web.pages.live import Live
from reconciler.web.pages.notices import Notices
from reconciler.web.pages.routes import failed, not_found, page_routes
from reconciler.web.security import PageSecurity
from reconciler.web.shared import Shared
from reconciler.web.webhooks.routes import webhook_routes

DISCOVERY = "/prometheus/sd"
# So many replicas are asked at a time: slow ones leave threads for all other answers.
_MOST_SCRAPES = 8
# Of several kinds in one line browsers take the last.
_METRICS = re.compile(r"(?:text/plain|application/openmetrics-text)(?:; ?[a-z]+=[A-Za-z0-9._-]+)*")
# Of a model's code, which may send anything: in a browser it would be a page from here, with all that pages here may.
_NO_PAGE = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "default-src 'none'; sandbox"}


def public_app(control: Control, metrics: Metrics, settings: Settings, live: Live, sessions: Sessions) -> ASGIApp:
    """Everything that strangers can reach."""
    # Without a pass of the loop for so long, the daemon counts as stuck.
    max_heartbeat_age = max(60.0, 3 * settings.resync)

    # In no thread: it must not wait for one.
    async def healthz(_: Request) -> Response:
        age = control.heartbeat()
        alive = age <= max_heartbeat_age
        body = {"status": "ok" if alive else "stuck", "heartbeatAgeSeconds": round(age, 3)}
        return JSONResponse(body, 200 if alive else 503)

    def readyz() -> Response:
        found = readiness(control.status(), control.heartbeat(), max_heartbeat_age)
        body = {"status": found.status, "waitingFor": list(found.waiting_for), "failing": list(found.failing)}
        return JSONResponse(body, 503 if found.waiting_for else 200)

    def scrape() -> Response:
        return Response(metrics.text(control.status()), headers={"Content-Type": CONTENT_TYPE_LATEST})

    def discover(address: str) -> Response:
        return JSONResponse(scrape_targets(control.status(), address, "https" if settings.web.tls else "http"))

    # By the addresses of this host.
    discoveries: dict[str, Shared[Response]] = {}

    async def discover_shared(request: Request) -> Response:
        address = _address_of(request)
        return await discoveries.setdefault(address, Shared(partial(discover, address))).get()

    slots = asyncio.Semaphore(_MOST_SCRAPES)
    # Of each path that is asked for just now.
    locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def pass_on(request: Request) -> Response:
        # An unresponsive replica takes one slot, however often it is scraped.
        path = request.scope["path"]
        lock = locks.setdefault(path, asyncio.Lock())
        async with lock, slots:
            return await run_in_threadpool(_pass_on, control, path)

    tokens, notices = Tokens(settings.web.auth.tokens), Notices()
    app = Starlette(
        routes=[
            Route("/healthz", healthz),
            Route("/readyz", _given(Shared(readyz))),
            Route("/metrics", _given(Shared(scrape))),
            Route(DISCOVERY, discover_shared),
            Route(f"{PASSED_ON}/{{target}}/{{replica}}", pass_on, methods=["GET"]),
            *webhook_routes(settings, control, metrics),
            *login_routes(settings, Logins(settings, sessions, live.end_session), tokens),
            *page_routes(control, live),
            *action_routes(control, notices, settings.web.auth.is_used),
        ],
        exception_handlers={404: not_found, Exception: failed},
    )
    # A redirect would lead to http, also where a proxy in front speaks TLS.
    app.router.redirect_slashes = False
    app.state.max_heartbeat_age, app.state.notices = max_heartbeat_age, notices
    return PageSecurity(Gate(app, settings, Credentials(settings, sessions, tokens)), settings.web)


def _given(shared: Shared[Response]) -> Callable[[Request], Awaitable[Response]]:
    async def answer(_: Request) -> Response:
        return await shared.get()

    return answer


def _address_of(request: Request) -> str:
    """Where we were asked."""
    host, port = request.scope["server"]
    host = host.removeprefix("::ffff:")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


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
