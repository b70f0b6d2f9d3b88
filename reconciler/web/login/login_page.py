"""The page to log in at, and what follows once somebody has."""

from __future__ import annotations

import structlog
from starlette.requests import Request
from starlette.responses import Response

from reconciler.config.web import AuthSettings
from reconciler.errors import Retryable
from reconciler.web.cross_site import local_path
from reconciler.web.login.logins import PRIVATE, Logins
from reconciler.web.login.sessions import Grant
from reconciler.web.pages.responses import page_response
from reconciler.web.visitors import NOBODY_IN_PARTICULAR

log = structlog.get_logger()


def login_page(request: Request, auth: AuthSettings, next_: str | None, error: str = "", status: int = 200) -> Response:
    """`next_`: where somebody goes on from here; `error`: why they are here again."""
    document = {
        "next": local_path(next_),
        "error": error,
        "hasTokens": bool(auth.tokens),
        "provider": auth.oidc.issuer if auth.oidc else None,
    }
    response = page_response(request, "login", document, NOBODY_IN_PARTICULAR, status)
    response.headers.update(PRIVATE)
    return response


async def begin_session(
    request: Request, auth: AuthSettings, logins: Logins, grant: Grant, next_: str | None
) -> Response:
    """Log somebody in; the page again where the disk takes no session."""
    try:
        return await logins.begin(request, grant, next_)
    except Retryable as error:
        log.error("sessions_failed", error=str(error))
        return login_page(request, auth, next_, "the daemon cannot keep a session; its log says why", 503)


async def end_session(request: Request, auth: AuthSettings, logins: Logins) -> Response:
    """Log somebody out; they are told where the disk does not take it, for the session holds then."""
    try:
        return await logins.end(request)
    except Retryable as error:
        log.error("sessions_failed", error=str(error))
        text = "you are still logged in: the daemon cannot end your session; its log says why"
        return login_page(request, auth, None, text, 503)
