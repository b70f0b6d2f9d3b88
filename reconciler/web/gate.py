"""In front of everything on the port: who may see the pages, and what is theirs to change.

What is not open to everybody needs a visitor, whatever routes there are: a page that is added is closed.
"""

from __future__ import annotations

import structlog
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from reconciler.config.settings import Settings
from reconciler.report.redact import one_line
from reconciler.web.bounded_log import BoundedLog
from reconciler.web.cross_site import SAFE_METHODS, is_own
from reconciler.web.json_responses import JSONResponse
from reconciler.web.login.credentials import AccessRefused, Credentials, NotLoggedIn, TooManyAttempts
from reconciler.web.login.routes import LOGIN, LOGOUT, login_address
from reconciler.web.pages.responses import is_browser, message
from reconciler.web.security import is_for_programs
from reconciler.web.visitors import NOBODY_IN_PARTICULAR, LoginMethod, Visitor, address_of

log = structlog.get_logger()

_STATIC = "/static/"
_CROSS_SITE = (
    "the browser does not say that this request comes from a page of this daemon; open the page and use its buttons. "
    "Scripts send `Authorization: Bearer TOKEN`, or `X-Reconciler: 1`"
)


class Gate:
    """An ASGI application around another one, which finds the visitor in its scope."""

    def __init__(self, app: ASGIApp, settings: Settings, credentials: Credentials) -> None:
        self._app = app
        self._web = settings.web
        self._credentials = credentials
        self._log = BoundedLog("cross_site_lines_left_out")
        self._can_log_in = bool(settings.web.auth.tokens or settings.web.auth.oidc)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or is_for_programs(scope["path"]):
            return await self._app(scope, receive, send)
        request = Request(scope)
        scope["has_login"] = self._web.auth.is_used
        try:
            scope["visitor"] = visitor = await self._visitor(request)
            self._check_origin(request, visitor)
        except AccessRefused as refused:
            return await self._refusal(request, refused)(scope, receive, send)
        return await self._app(scope, receive, send)

    async def _visitor(self, request: Request) -> Visitor | None:
        """None where nobody need say who they are. Raises AccessRefused."""
        path = request.scope["path"]
        if path in (LOGIN, LOGOUT) or path.startswith((_STATIC, f"{LOGIN}/")):
            return None
        return await self._credentials.identify(request)

    def _check_origin(self, request: Request, visitor: Visitor | None) -> None:
        """Raises AccessRefused for a request that changes something and may be another site's."""
        has_token = visitor is not None and visitor.way is LoginMethod.BEARER
        if request.method in SAFE_METHODS or is_own(request, self._web, has_token):
            return
        who, path = visitor.name if visitor else "", one_line(request.scope["path"][:200])
        if self._log.may_write():
            log.warning("cross_site_refused", who=who, client=address_of(request), path=path)
        raise AccessRefused(403, "Not from this page", _CROSS_SITE)

    def _refusal(self, request: Request, refused: AccessRefused) -> Response:
        shows_pages = is_browser(request)
        if shows_pages and request.method == "GET" and self._can_log_in and isinstance(refused, NotLoggedIn):
            return RedirectResponse(login_address(_asked_for(request)), 303)
        response = (
            message(request, refused.status, refused.title, refused.text, NOBODY_IN_PARTICULAR)
            if shows_pages
            else JSONResponse({"error": refused.text}, refused.status)
        )
        if isinstance(refused, NotLoggedIn):
            response.headers["WWW-Authenticate"] = 'Bearer realm="reconciler"'
        if isinstance(refused, TooManyAttempts):
            response.headers["Retry-After"] = str(refused.seconds)
        return response


def _asked_for(request: Request) -> str:
    """The path and the query, as they were sent."""
    path: bytes = request.scope["raw_path"]
    query: bytes = request.scope["query_string"]
    return (path + (b"?" + query if query else b"")).decode("latin-1")
