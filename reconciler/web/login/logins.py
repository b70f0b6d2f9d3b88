"""The page to log in at, and what begins and ends a browser's session."""

from __future__ import annotations

from collections.abc import Callable

import structlog
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from reconciler.config.settings import Settings
from reconciler.errors import Retryable
from reconciler.web.cross_site import local_path
from reconciler.web.login.cookies import SessionCookie
from reconciler.web.login.sessions import Grant, Sessions, hash_of
from reconciler.web.pages.responses import page_response
from reconciler.web.visitors import NOBODY_IN_PARTICULAR, address_of

log = structlog.get_logger()

PRIVATE = {"Cache-Control": "no-store"}
"""Of an answer that no browser shall show again."""


class Logins:
    """Of one daemon."""

    def __init__(self, settings: Settings, sessions: Sessions, ended: Callable[[bytes], None]) -> None:
        """`ended` is called, in the server's loop, with the SHA-256 of the id of a session that somebody ended."""
        self._auth = settings.web.auth
        self._sessions, self._tell_ended = sessions, ended
        self._cookie = SessionCookie(settings.web)

    def page(self, request: Request, next_: str | None, error: str = "", status: int = 200) -> Response:
        """`next_`: where somebody goes on from here; `error`: why they are here again."""
        document = {
            "next": local_path(next_),
            "error": error,
            "hasTokens": bool(self._auth.tokens),
            "provider": self._auth.oidc.issuer if self._auth.oidc else None,
        }
        response = page_response(request, "login", document, NOBODY_IN_PARTICULAR, status)
        response.headers.update(PRIVATE)
        return response

    async def begin(self, request: Request, grant: Grant, next_: str | None) -> Response:
        """Log somebody in, and send the browser to `next_`, if that is a path of ours; the page again where the disk
        takes no session.

        The session has a new id, and the one that the browser had is over: whoever knew that one knows nothing now.
        """
        try:
            await self._end_current(request)
            id_ = await run_in_threadpool(self._sessions.begin, grant)
        except Retryable as error:
            log.error("sessions_failed", error=str(error))
            return self.page(request, next_, "the daemon cannot keep a session; its log says why", 503)
        log.info("login", who=grant.name, role=grant.role.value, client=address_of(request), result="logged in")
        response = RedirectResponse(local_path(next_), 303, PRIVATE)
        self._cookie.set(response, id_)
        return response

    async def end(self, request: Request) -> Response:
        """Log a browser out; they are told where the disk does not take it, for the session holds then."""
        try:
            name = await self._end_current(request)
        except Retryable as error:
            log.error("sessions_failed", error=str(error))
            text = "you are still logged in: the daemon cannot end your session; its log says why"
            return self.page(request, None, text, 503)
        if name:
            log.info("login", who=name, client=address_of(request), result="logged out")
        response = RedirectResponse("/login", 303, {**PRIVATE, "Clear-Site-Data": '"cache"'})
        self._cookie.clear(response)
        return response

    async def _end_current(self, request: Request) -> str:
        """Whose session it was. Raises Retryable where the disk does not take it."""
        id_ = self._cookie.read(request)
        if not id_:
            return ""
        name = await run_in_threadpool(self._ended, id_)
        self._tell_ended(hash_of(id_))
        return name

    def _ended(self, id_: str) -> str:
        found = self._sessions.find(id_)
        self._sessions.end(id_)
        return found.name if found else ""
