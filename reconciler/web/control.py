"""The owner's API of the daemon over its unix socket: status, history, logs, sync, suspend, resume, restart,
drain, undrain, approve, withdraw.

Connections are vetted by the server (only our own user and root). Errors are JSON too:
`{"error": …}` with 400 for a wrong question, 404 for an unknown service, 500 for our fault.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import structlog
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from reconciler.errors import ReconcileError
from reconciler.model import ByHand
from reconciler.report.history import parse_revision, parse_since
from reconciler.report.redact import scrub_text
from reconciler.report.status import Document
from reconciler.system.unix_sockets import person
from reconciler.web.json_responses import JSONResponse
from reconciler.web.manual_requests import (
    BadRequest,
    approve,
    asked_in,
    json_body,
    resume,
    service_in,
    status_code,
    suspend,
    target_in,
    withdraw,
)
from reconciler.web.pages.facts import PageFacts

log = structlog.get_logger()

MAX_LINES = 10_000
# They take as long as git does, which may be long: others need threads as well, on the public port too.
_MOST_SYNCS = 8


class Control(Protocol):
    """What the loop offers. Called from another thread; answers must not wait for a pass.

    A service is given as `namespace/name`. Raises ReconcileError, whose message is sent to the client.
    """

    def status(self) -> Document:
        """The latest status document."""

    def history(
        self, service: str | None, limit: int, since: float | None = None, revision: str | None = None
    ) -> list[dict[str, str]]:
        """The latest entries, oldest first: from a time on, and of the revision that begins like this."""

    def logs(self, service: str, lines: int) -> list[str]:
        """The last lines that the service's replicas wrote."""

    def service_details(self, service: str, target: str, lines: int) -> Document:
        """What git's version of a service starts on a target, and the last lines of its replicas there."""

    def request_sync(self, by: str = "") -> int:
        """Fetch and pass now. Returns the number of passes (`daemon.passes`) after which the answer counts.

        `by`: who asks, for the history; empty: it is not recorded.
        """

    def suspend(self, service: str | None, asked: ByHand) -> list[str]:
        """Plan, but perform nothing: one service, or the whole target. Returns what is suspended now."""

    def resume(self, service: str | None, by: str) -> list[str]:
        """Perform again, and try what is quarantined once more. Returns what is still suspended."""

    def restart(self, service: str, target: str | None, by: str) -> tuple[list[str], int]:
        """Replace a service's replicas by new ones. Returns the targets that do, and `daemon.passes` that counts."""

    def drain(self, asked: ByHand) -> None:
        """Drain and stop everything on this host, regardless of git, until `undrain`."""

    def undrain(self, by: str) -> bool:
        """Let everything in git run again. Returns whether the host was drained."""

    def approve(self, hash_: str, target: str | None, asked: ByHand) -> list[str]:
        """Let the deletions with this hash be done that are held. Returns the targets that do them."""

    def withdraw(self, hash_: str, target: str | None, asked: ByHand) -> list[str]:
        """Hold again what is left of approved deletions. Returns the targets that do."""

    def on_push(self) -> None:
        """A webhook says that git may have something new: ask it soon. Returns at once."""

    def on_pull_request(self) -> None:
        """A webhook says that a pull request changed: look at them soon. Returns at once."""

    def gpu_use(self) -> Mapping[str, Mapping[str, Document]]:
        """What is free now of the GPUs of each host, by UUID: `use` of the status document. Waits half a second."""

    def heartbeat(self) -> float:
        """Seconds since the loop last turned."""

    def page_facts(self) -> PageFacts:
        """What pages of git show beyond the status."""


def control_app(control: Control) -> Starlette:
    """The API as HTTP."""
    api = _OwnerApi(control)
    return Starlette(
        routes=[
            Route("/status", _answer(api.status), methods=["GET"]),
            Route("/history", _answer(api.history), methods=["GET"]),
            Route("/logs", _answer(api.logs), methods=["GET"]),
            Route("/sync", _answer(api.sync, asyncio.Semaphore(_MOST_SYNCS)), methods=["POST"]),
            Route("/suspend", _answer(api.suspend), methods=["POST"]),
            Route("/resume", _answer(api.resume), methods=["POST"]),
            Route("/restart", _answer(api.restart), methods=["POST"]),
            Route("/drain", _answer(api.drain), methods=["POST"]),
            Route("/undrain", _answer(api.undrain), methods=["POST"]),
            Route("/approve", _answer(api.approve), methods=["POST"]),
            Route("/withdraw", _answer(api.withdraw), methods=["POST"]),
        ]
    )


@dataclass(frozen=True, slots=True)
class _OwnerApi:
    """One method for each path: what it answers to a request and its body. Raises BadRequest."""

    control: Control

    def status(self, _: Request, __: Document) -> object:
        return self.control.status()

    def history(self, request: Request, _: Document) -> object:
        service = service_in(self.control, request.query_params.get("service"), gone_is_fine=True)
        return {"entries": self.control.history(service, _number(request, "limit", 50), **_filters(request))}

    def logs(self, request: Request, _: Document) -> object:
        service = service_in(self.control, request.query_params.get("service"))
        if service is None:
            raise BadRequest("logs of which service? Add ?service=namespace/name")
        lines = self.control.logs(service, _number(request, "lines", 100))
        return {"service": service, "lines": [scrub_text(line) for line in lines]}

    def sync(self, _: Request, __: Document) -> object:
        return {"pass": self.control.request_sync()}

    def suspend(self, request: Request, body: Document) -> object:
        return suspend(self.control, body, _caller(request))

    def resume(self, request: Request, body: Document) -> object:
        return resume(self.control, body, _caller(request))

    def restart(self, request: Request, body: Document) -> object:
        service, target = service_in(self.control, body.get("service")), target_in(body)
        if service is None:
            raise BadRequest("restart which service? Give service: namespace/name")
        targets, needed = self.control.restart(service, target, _caller(request))
        return {"service": service, "targets": targets, "askedBy": _caller(request), "pass": needed}

    def drain(self, request: Request, body: Document) -> object:
        self.control.drain(asked_in(body, _caller(request)))
        return {"drained": True}

    def undrain(self, request: Request, _: Document) -> object:
        return {"lifted": self.control.undrain(_caller(request))}

    def approve(self, request: Request, body: Document) -> object:
        return approve(self.control, body, _caller(request))

    def withdraw(self, request: Request, body: Document) -> object:
        return withdraw(self.control, body, _caller(request))


def _answer(
    ask: Callable[[Request, Document], object], slots: asyncio.Semaphore | None = None
) -> Callable[[Request], Any]:
    """One endpoint: read a bounded body, ask in a worker thread, turn errors into JSON. So many `slots` at a time."""

    async def endpoint(request: Request) -> Response:
        try:
            body = await json_body(request)
            async with slots or nullcontext():
                return JSONResponse(await run_in_threadpool(ask, request, body))
        except (BadRequest, ReconcileError) as error:
            return _error(status_code(error), str(error))
        except Exception:
            # The caller learns that it is our fault; the traceback belongs into our log.
            log.exception("control_request_failed", path=request.url.path)
            return _error(500, "internal error of the daemon; its log has the details")

    return endpoint


def _number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name, str(default))
    if not text.isascii() or not text.isdigit() or not 0 < int(text[:9]) <= MAX_LINES:
        raise BadRequest(f"{name}: expected a number from 1 to {MAX_LINES}")
    return int(text)


def _filters(request: Request) -> dict[str, Any]:
    """Filters of the history, in addition to the service."""
    asked = request.query_params
    try:
        since = {"since": parse_since(asked["since"], time.time())} if "since" in asked else {}
        return since | ({"revision": parse_revision(asked["revision"])} if "revision" in asked else {})
    except ValueError as error:
        raise BadRequest(str(error)) from None


def _caller(request: Request) -> str:
    """Who asks, as the kernel knows it: the server puts it where others have an address."""
    return person(request.client.port, int(request.client.host)) if request.client else ""


def _error(code: int, message: str) -> Response:
    return JSONResponse({"error": scrub_text(message)}, code)
