"""`/login` and `/logout`: the form for a token, and where else somebody can log in."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from reconciler.config.settings import Settings
from reconciler.errors import Retryable
from reconciler.web.cross_site import local_path
from reconciler.web.login.credentials import Refused, Tokens, address_of, grant_of
from reconciler.web.login.logins import PRIVATE, Logins
from reconciler.web.page_responses import page_response
from reconciler.web.request_body import read_form
from reconciler.web.visitors import NOBODY_IN_PARTICULAR

log = structlog.get_logger()

LOGIN = "/login"
LOGOUT = "/logout"
_MOST_BYTES = 8 << 10
_WRONG = "this is not one of the tokens of web.auth.tokens"


def login_address(next_: str) -> str:
    """Where somebody logs in, and from there goes on to a path of ours."""
    return f"{LOGIN}?next={quote(local_path(next_), safe='/')}"


def login_routes(settings: Settings, logins: Logins, tokens: Tokens) -> Iterator[Route]:
    """None where no browser can log in here."""
    auth = settings.web.auth
    if not (auth.tokens or auth.oidc):
        return

    def page(request: Request, next_: str | None, error: str = "", status: int = 200) -> Response:
        document = {
            "next": local_path(next_),
            "error": error,
            "hasTokens": bool(auth.tokens),
            "provider": auth.oidc.issuer if auth.oidc else None,
        }
        response = page_response(request, "login", document, NOBODY_IN_PARTICULAR, status)
        response.headers.update(PRIVATE)
        return response

    async def show(request: Request) -> Response:
        return page(request, request.query_params.get("next"))

    async def log_in(request: Request) -> Response:
        form = await read_form(request, _MOST_BYTES) or {}
        next_ = form.get("next")
        try:
            token = tokens.find_for(address_of(request), form.get("token", "").strip())
        except Refused as refused:
            _log_refused(request, refused.text)
            return page(request, next_, refused.text, refused.status)
        if token is None:
            _log_refused(request, _WRONG)
            return page(request, next_, _WRONG, 401)
        try:
            return await logins.begin(request, grant_of(token), next_)
        except Retryable as error:
            log.error("sessions_failed", error=str(error))
            return page(request, next_, "the daemon cannot keep a session; its log says why", 503)

    async def log_out(request: Request) -> Response:
        return await logins.end(request)

    yield Route(LOGIN, show, methods=["GET"])
    if auth.tokens:
        yield Route(LOGIN, log_in, methods=["POST"])
    yield Route(LOGOUT, log_out, methods=["POST"])


def _log_refused(request: Request, why: str) -> None:
    """As many lines as attempts are allowed, and one for each that is not: both from one address."""
    log.warning("login", client=address_of(request), result="refused", reason=why)
