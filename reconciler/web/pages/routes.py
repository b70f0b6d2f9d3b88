"""The pages: each is HTML, and JSON at the same address for who accepts only that."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, cast
from weakref import WeakValueDictionary

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from reconciler.errors import ReconcileError
from reconciler.page.attention import attention
from reconciler.page.gpus import gpus_document
from reconciler.page.overview import overview_document
from reconciler.page.rendering import static_files, static_version
from reconciler.page.service import (
    MOST_EVENTS,
    ServicePageFacts,
    find_service,
    log_lines,
    service_document,
    why_unknown,
)
from reconciler.page.summary import ADDRESS, summary_document
from reconciler.report.redact import scrub_text
from reconciler.report.status import Document
from reconciler.web.control import Control
from reconciler.web.pages import git_pages
from reconciler.web.pages.facts import PageNotFound
from reconciler.web.pages.live import Live
from reconciler.web.pages.responses import Made, make_page, message, response_of, wants_json
from reconciler.web.shared import Shared
from reconciler.web.visitors import NOBODY_IN_PARTICULAR, Role, Visitor, visitor_of

Build = Callable[[Control, Request], Document]
_TYPES = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}


@dataclass(frozen=True, slots=True)
class Page:
    """`path` may hold parameters; `template` makes HTML of what `build` gives.

    Without a template it is JSON for whoever asks. `build` looks only at the path and the query of the request, and
    raises PageNotFound: visitors share what it gives. `at_once`: so many are made at a time, of whatever parameters and
    query; who asks for more waits, and other pages and answers have threads all the same.
    """

    path: str
    template: str
    build: Build
    at_once: int = 3


def _overview(control: Control, request: Request) -> Document:
    stuck, links = _stuck(control, request), control.page_facts().links()
    return overview_document(control.status(), request.query_params, control.gpu_use(), stuck, links)


def _stuck(control: Control, request: Request) -> str:
    """Why the daemon may know nothing of what is; empty: it does."""
    age, oldest = control.heartbeat(), request.app.state.max_heartbeat_age
    return f"no pass of some target for {age:.0f} s: what is shown may be old" if age > oldest else ""


def _gpus(control: Control, _: Request) -> Document:
    return gpus_document(control.status(), control.gpu_use())


def _summary(control: Control, _: Request) -> Document:
    return summary_document(control.status())


def _service(control: Control, request: Request) -> Document:
    status, asked = control.status(), request.path_params
    target, namespace, name = asked["target"], asked["namespace"], asked["name"]
    found = find_service(status, target, namespace, name)
    if found is None:
        raise PageNotFound(why_unknown(status, target, namespace, name))
    lines = log_lines(request.query_params.get("lines"))
    details = control.service_details(f"{namespace}/{name}", target, lines)
    # Those of other targets are among them.
    history = control.history(f"{namespace}/{name}", MOST_EVENTS * len(status["targets"]))
    facts = ServicePageFacts(*found, details, history, socket.gethostname(), lines)
    return service_document(facts, control.page_facts().links())


PAGES = (
    Page("/", "overview", _overview),
    # Some wait for logs, and are told to come again where too many do.
    Page("/services/{target}/{namespace}/{name}", "service", _service, at_once=12),
    Page("/gpus", "gpus", _gpus),
    Page(ADDRESS, "", _summary),
    Page("/changes", "changes", git_pages.changes),
    Page("/changes/{revision}", "change", git_pages.change),
    Page("/repository", "repository", git_pages.repository),
)


def page_routes(control: Control, live: Live) -> Iterator[Route]:
    """All pages, the files that they use, and the events that keep them fresh."""
    for page in PAGES:
        yield Route(page.path, _endpoint(page, control, live), methods=["GET"])
    yield Route("/events", _events(live), methods=["GET"])
    yield Route("/static/{version}/{name}", _static, methods=["GET"])


def _endpoint(page: Page, control: Control, live: Live) -> Callable[[Request], object]:
    # By what a page follows from, of those that are asked for just now.
    known: WeakValueDictionary[tuple[str, bytes, bool, Role], Shared[Made]] = WeakValueDictionary()
    slots = asyncio.Semaphore(page.at_once)

    async def answer(request: Request) -> Response:
        visitor = visitor_of(request)
        # As pages read them: `request.url` is without line ends, and what follows a `#` in the query, so that some
        # could make others see what they asked for.
        key = (request.scope["path"], request.scope["query_string"], wants_json(request), visitor.role)
        shared = known.setdefault(key, Shared(partial(_make, page, control, live, request, visitor.role), slots))
        return await run_in_threadpool(response_of, request, await shared.get(), visitor)

    return answer


def _events(live: Live) -> Callable[[Request], object]:
    async def answer(request: Request) -> Response:
        return live.answer(request)

    return answer


def _make(page: Page, control: Control, live: Live, request: Request, role: Role) -> Made:
    # All that have this role share it, so it knows nobody's name.
    visitor, since = Visitor("", role), live.position()
    moment = cast(Control, _OneMoment(control))
    try:
        template, document, status = page.template, page.build(moment, request), 200
    except PageNotFound as error:
        template, document, status = "message", {"title": "Not found", "message": str(error)}, 404
    except ReconcileError as error:
        document = {"title": "Not available now", "message": scrub_text(str(error))}
        template, status = "message", 503
    count = None if wants_json(request) else len(attention(moment.status(), _stuck(moment, request)))
    return make_page(request, template, document, visitor, status, attention=count, since=since)


class _OneMoment:
    """The loop at one moment: all parts of a page follow from the same status document, which is made once."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._known: Document | None = None

    def status(self) -> Document:
        if self._known is None:
            self._known = self._control.status()
        return self._known

    def __getattr__(self, name: str) -> Any:
        return getattr(self._control, name)


def not_found(request: Request, _: Exception) -> Response:
    """There is no such address."""
    return message(request, 404, "Not found", "There is no such page.", NOBODY_IN_PARTICULAR)


def failed(request: Request, error: Exception) -> Response:
    """A bug of ours; the traceback is in the log."""
    text = f"{type(error).__name__}: this is a bug in the reconciler, whose traceback is in the daemon's log."
    return message(request, 500, "Internal error", text, NOBODY_IN_PARTICULAR)


def _static(request: Request) -> Response:
    content = static_files().get(request.path_params["name"])
    if content is None or request.path_params["version"] != static_version():
        return Response("no such file\n", 404)
    kind = _TYPES[request.path_params["name"].rpartition(".")[2]]
    return Response(content, headers={"Cache-Control": "public, max-age=31536000, immutable"}, media_type=kind)
