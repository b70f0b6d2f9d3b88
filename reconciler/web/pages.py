"""The pages: each is HTML, and JSON at the same address for who accepts only that."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import structlog
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from reconciler.page.overview import overview_document
from reconciler.page.rendering import render, static_files, static_version
from reconciler.report.status import Document
from reconciler.web.control import Control
from reconciler.web.json_responses import JSONResponse
from reconciler.web.security import HEADERS
from reconciler.web.visitors import NOBODY_IN_PARTICULAR, Visitor

log = structlog.get_logger()
Build = Callable[[Control, Request], Document]
_TYPES = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}


@dataclass(frozen=True, slots=True)
class Page:
    """`path` may hold parameters; `template` makes HTML of what `build` gives. `build` raises NotFound."""

    path: str
    template: str
    build: Build


class NotFound(Exception):
    """There is no such page; the message says what to do."""


def _overview(control: Control, _: Request) -> Document:
    return overview_document(control.status())


PAGES = (Page("/", "overview", _overview),)


def page_routes(control: Control) -> Iterator[Route]:
    """All pages, and the files that they use."""
    for page in PAGES:
        yield Route(page.path, _endpoint(page, control), methods=["GET"])
    yield Route("/static/{version}/{name}", _static, methods=["GET"])


def _endpoint(page: Page, control: Control) -> Callable[[Request], object]:
    async def answer(request: Request) -> Response:
        return await run_in_threadpool(_answer, page, control, request)

    return answer


def _answer(page: Page, control: Control, request: Request) -> Response:
    visitor = visitor_of(request)
    try:
        return _response(request, page.template, page.build(control, request), visitor)
    except NotFound as error:
        return message(request, 404, "Not found", str(error), visitor)


def visitor_of(_: Request) -> Visitor:
    """Who asks."""
    return NOBODY_IN_PARTICULAR


def message(request: Request, status: int, title: str, text: str, visitor: Visitor) -> Response:
    """A page that says one thing."""
    return _response(request, "message", {"title": title, "message": text}, visitor, status)


def _response(request: Request, template: str, document: Document, visitor: Visitor, status: int = 200) -> Response:
    headers = {**HEADERS, "Vary": "Accept"}
    if wants_json(request):
        return JSONResponse(document, status, headers)
    text = render(template, document=document, visitor=visitor, here=request.url.path, host=socket.gethostname())
    return Response(text.encode("utf-8", "replace"), status, headers, media_type="text/html; charset=utf-8")


def wants_json(request: Request) -> bool:
    """Browsers name text/html; who accepts JSON and not that gets JSON."""
    accepted = request.headers.get("accept", "")
    return "application/json" in accepted and "text/html" not in accepted


def _static(request: Request) -> Response:
    content = static_files().get(request.path_params["name"])
    if content is None or request.path_params["version"] != static_version():
        return Response("no such file\n", 404, HEADERS)
    kind = _TYPES[request.path_params["name"].rpartition(".")[2]]
    return Response(
        content, headers={**HEADERS, "Cache-Control": "public, max-age=31536000, immutable"}, media_type=kind
    )
