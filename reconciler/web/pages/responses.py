"""A page as the answer to a request: HTML, or JSON for who accepts only that; 304 where the browser has it already."""

from __future__ import annotations

import hashlib
import secrets
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from reconciler import __version__
from reconciler.page.rendering import render
from reconciler.report.status import Document
from reconciler.web.json_responses import JSONResponse
from reconciler.web.pages.notices import notice_for
from reconciler.web.visitors import Visitor

# Where in a page stands what differs from visitor to visitor, so that all else is made once for all of them. Nobody
# outside can write it.
_VISITOR_PART = f"<!-- {secrets.token_hex(16)} -->"


class _Marker(str):
    def __html__(self) -> str:
        return str(self)


@dataclass(frozen=True, slots=True)
class Made:
    """A page without what differs from visitor to visitor, which stands between `head` and `tail`; JSON has no tail."""

    head: bytes
    tail: bytes = b""
    status: int = 200
    is_json: bool = False
    since: str = ""
    """Of the events at `/events`, which this page already shows."""


def make_page(
    request: Request,
    template: str,
    document: Document,
    visitor: Visitor,
    status: int = 200,
    *,
    attention: int | None = None,
    since: str = "",
) -> Made:
    """`visitor`: of it only the role is shown. `attention`: how much needs a person; unknown on some pages.

    Without a template it is JSON.
    """
    if not template or wants_json(request):
        return Made(bytes(JSONResponse(document).body), status=status, is_json=True)
    text = render(
        template,
        document=document,
        visitor=visitor,
        visitor_part=_Marker(_VISITOR_PART),
        attention=attention,
        **_frame(request),
    )
    head, _, tail = text.partition(_VISITOR_PART)
    return Made(_bytes(head), _bytes(tail), status, since=since)


def page_response(request: Request, template: str, document: Document, visitor: Visitor, status: int = 200) -> Response:
    """A page for one visitor."""
    return response_of(request, make_page(request, template, document, visitor, status), visitor)


def message(request: Request, status: int, title: str, text: str, visitor: Visitor) -> Response:
    """A page that says one thing."""
    return page_response(request, "message", {"title": title, "message": text}, visitor, status)


def response_of(request: Request, made: Made, visitor: Visitor) -> Response:
    """The page for one of its visitors."""
    headers, notice = {"Vary": "Accept, Cookie"}, notice_for(request, visitor)
    if made.status == 200:
        headers["ETag"] = tag = _tag(made, visitor, notice)
        if tag in (one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")):
            return Response(None, 304, headers)
    if made.is_json:
        return Response(made.head, made.status, headers, media_type="application/json")
    part = render("_visitor", visitor=visitor, notice=notice, since=made.since, now=time.time())
    body = b"".join((made.head, _bytes(part), made.tail))
    return Response(body, made.status, headers, media_type="text/html; charset=utf-8")


def is_browser(request: Request) -> bool:
    """Browsers name text/html."""
    return "text/html" in request.headers.get("accept", "")


def wants_json(request: Request) -> bool:
    """Who accepts JSON and is no browser gets JSON."""
    return "application/json" in request.headers.get("accept", "") and not is_browser(request)


def _frame(request: Request) -> Mapping[str, object]:
    here, has_login = request.scope["path"], bool(request.scope.get("has_login"))
    return {
        "has_login": has_login,
        "here": here,
        "host": socket.gethostname(),
        "now": time.time(),
        "version": __version__,
    }


def _tag(made: Made, visitor: Visitor, notice: str) -> str:
    known = hashlib.sha256(made.head)
    known.update(made.tail)
    known.update(_bytes(f"{visitor.name}\0{visitor.role}\0{notice}"))
    return f'"{known.hexdigest()[:24]}"'


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")
