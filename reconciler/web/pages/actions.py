"""`/actions/…`: what somebody can do on the page. GET asks once and says what will be done, POST does it.

Only operators may, and only where a login is configured, so that each is known by name: in history, and in the log,
which has a line for everything that was asked, also for what was refused.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

import structlog
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from reconciler.config.values import parse_duration
from reconciler.errors import ReconcileError
from reconciler.page import action as page
from reconciler.page.action import Asked
from reconciler.report.redact import one_line, scrub_text
from reconciler.report.status import Document
from reconciler.web.bounded_log import BoundedLog
from reconciler.web.client import UnknownService, resolve_service
from reconciler.web.control import Control
from reconciler.web.cross_site import is_led_here, local_path
from reconciler.web.json_responses import JSONResponse
from reconciler.web.manual_requests import BadRequest, approve, json_body, resume, status_code, suspend
from reconciler.web.pages.notices import Notices
from reconciler.web.pages.responses import is_browser, page_response
from reconciler.web.request_body import FORM, content_type, read_form
from reconciler.web.visitors import Visitor, address_of, visitor_of

log = structlog.get_logger()

_MOST_BYTES = 16 << 10
_MOST_AT_ONCE = 4
# Git may be slow; the answer comes before the server ends the connection.
_SYNC_SECONDS = 20.0
_FIELDS = ("service", "target", "hash", "reason", "until")
_LONGEST_SHOWN = 200
_LED_HERE = "Another site led here, so this page has no button: open the Overview, and begin there."
_Perform = Callable[[Document, str], Awaitable[Document]]


@dataclass(frozen=True, slots=True)
class _Action:
    """`question` says what will be done. `perform`, given the body of a request and who asks, does it and answers as
    the control socket does; `said` is that for people. Without `perform` git is asked."""

    name: str
    question: Callable[[Document, Asked], Document]
    perform: Callable[[Control, Document, str], Document] | None
    said: Callable[[Document, Document], str]


def _suspend(control: Control, body: Document, by: str) -> Document:
    if not str(body.get("reason") or "").strip():
        raise BadRequest("reason: say why; status and history show it")
    return suspend(control, body, by)


def _subject(body: Document) -> str:
    return str(body.get("service") or "everything")


_ACTIONS = (
    _Action("sync", page.sync_document, None, lambda _, __: "Git was asked, and every target looks at it now."),
    _Action("suspend", page.suspend_document, _suspend, lambda body, _: f"Suspended: {_subject(body)}."),
    _Action("resume", page.resume_document, resume, lambda body, _: f"Resumed: {_subject(body)}."),
    _Action(
        "approve",
        page.approve_document,
        approve,
        lambda _, done: f"Approved: the deletions begin now on {', '.join(done['targets'])}.",
    ),
)


class _Failed(Exception):
    """What was asked cannot be done; the message is for who asked."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(scrub_text(message))
        self.status = status


def action_routes(control: Control, notices: Notices, can_log_in: bool) -> Iterator[Route]:
    """`can_log_in`: a login is configured, so that somebody may act."""
    slots, questions = (asyncio.Semaphore(_MOST_AT_ONCE) for _ in range(2))
    syncs, refusals = _Syncs(control), BoundedLog("page_action_lines_left_out")

    def in_thread(perform: Callable[[Control, Document, str], Document]) -> _Perform:
        async def performed(body: Document, by: str) -> Document:
            async with slots:
                return await run_in_threadpool(perform, control, _understood(body), by)

        return performed

    for action in _ACTIONS:
        perform = in_thread(action.perform) if action.perform else syncs.request
        each = _Endpoint(action, control, notices, can_log_in, perform, refusals, questions)
        yield Route(f"/actions/{action.name}", each.ask, methods=["GET"])
        yield Route(f"/actions/{action.name}", each.act, methods=["POST"])


@dataclass(frozen=True, slots=True)
class _Endpoint:
    """One action."""

    action: _Action
    control: Control
    notices: Notices
    can_log_in: bool
    perform: _Perform
    refusals: BoundedLog
    questions: asyncio.Semaphore
    """So many are made at a time: viewers may ask them as well."""

    async def ask(self, request: Request) -> Response:
        """The question. Who may not act, or not from here, is told why, and how else it is done."""
        query = {name: request.query_params.get(name, "") for name in (*_FIELDS, "back")}
        return await self._question(request, query, 403 if self._why_not(request) else 200)

    async def act(self, request: Request) -> Response:
        visitor, body = visitor_of(request), {}
        try:
            if not visitor.may_act:
                raise _Failed(403, self._why_not(request))
            body = await _body(request)
            done = await self._perform(body, f"{visitor.name} (web)")
        except _Failed as failed:
            self._audit(request, visitor, body, f"refused: {failed}")
            if is_browser(request):
                return await self._question(request, body, failed.status, str(failed))
            return JSONResponse({"error": str(failed)}, failed.status)
        except BaseException as error:
            self._audit(request, visitor, body, f"failed: {type(error).__name__}")
            raise
        self._audit(request, visitor, body, "done")
        if not is_browser(request):
            return JSONResponse(done)
        back = local_path(str(body.get("back") or ""))
        return RedirectResponse(self.notices.leave(visitor, self.action.said(body, done), back), 303)

    async def _perform(self, body: Document, by: str) -> Document:
        try:
            return await self.perform(body, by)
        except (BadRequest, ReconcileError) as error:
            raise _Failed(status_code(error), str(error)) from None

    async def _question(self, request: Request, asked: Document, status: int, error: str = "") -> Response:
        async with self.questions:
            document, status = await run_in_threadpool(self._document, asked, status)
            visitor = visitor_of(request)
            document |= {
                "action": f"/actions/{self.action.name}",
                "back": local_path(str(asked.get("back") or "")),
                "whyNot": self._why_not(request),
                "error": error or document.get("error", ""),
            }
            response = await run_in_threadpool(page_response, request, "action", document, visitor, status)
        response.headers["Cache-Control"] = "no-store"
        return response

    def _document(self, given: Document, status: int) -> tuple[Document, int]:
        asked = Asked(**{name: _text(given.get(name)) for name in _FIELDS} | {"hash": _text(given.get("hash")).lower()})
        known, fields = self.control.status(), {name: getattr(asked, name) for name in _FIELDS}
        try:
            if asked.service:
                fields["service"] = resolve_service(known, asked.service)
        except UnknownService as error:
            document = self.action.question(known, Asked())
            return document | {"fields": fields, "isPossible": False, "error": scrub_text(str(error))}, 404
        return self.action.question(known, Asked(**fields)) | {"fields": fields}, status

    def _why_not(self, request: Request) -> str:
        """Empty: it can be done from this page."""
        visitor = visitor_of(request)
        if not self.can_log_in:
            return "Nothing can be changed from this page, because no login is configured (web.auth)."
        if not visitor.may_act:
            return f"You are {visitor.name} and may look, not act: that takes the role operator."
        return _LED_HERE if is_led_here(request) else ""

    def _audit(self, request: Request, visitor: Visitor, body: Document, result: str) -> None:
        if not visitor.may_act and not self.refusals.may_write(who=visitor.name):
            return
        given = {name: one_line(_text(body.get(name))[:_LONGEST_SHOWN]) for name in _FIELDS if body.get(name)}
        log.info(
            "page_action",
            action=self.action.name,
            who=visitor.name,
            way=visitor.way.value,
            client=address_of(request),
            asked=given,
            result=one_line(result),
        )


class _Syncs:
    """Git is asked once at a time, however many ask for it."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._lock = asyncio.Lock()
        self._running: set[asyncio.Task[Document]] = set()

    async def request(self, _: Document, by: str) -> Document:
        """The number of the pass is null where git takes long: it is asked all the same. Raises ReconcileError."""
        if len(self._running) >= _MOST_AT_ONCE:
            raise _Failed(503, "git is being asked already, and others wait for that as well; try again in a minute")
        task = asyncio.create_task(self._ask(by))
        self._running.add(task)
        task.add_done_callback(self._ended)
        try:
            return await asyncio.wait_for(asyncio.shield(task), _SYNC_SECONDS)
        except TimeoutError:
            return {"pass": None}

    async def _ask(self, by: str) -> Document:
        async with self._lock:
            return {"pass": await run_in_threadpool(self._control.request_sync, by)}

    def _ended(self, task: asyncio.Task[Document]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("page_sync_failed", error=str(error))


async def _body(request: Request) -> Document:
    """Of a form or of JSON, in the form that the control socket takes. Raises _Failed."""
    kind = content_type(request)
    try:
        if kind == FORM:
            form = await read_form(request, _MOST_BYTES)
            if form is None:
                raise BadRequest("the form cannot be read")
            return {name: text for name, text in form.items() if text}
        if kind not in ("application/json", ""):
            raise _Failed(415, f"expected application/json or {FORM}")
        return await json_body(request)
    except BadRequest as error:
        raise _Failed(400, str(error)) from None
    except ClientDisconnect:
        raise _Failed(400, "the body is not complete") from None


def _understood(body: Document) -> Document:
    """An end may be given as how long from now on: `2h`. Raises BadRequest."""
    until = body.get("until")
    if not isinstance(until, str):
        return body
    try:
        return body | {"until": time.time() + parse_duration(until)}
    except ValueError as error:
        raise BadRequest(f"until: {error}") from None


def _text(value: object) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value)
