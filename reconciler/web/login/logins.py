"""What begins and ends a browser's session."""

from __future__ import annotations

from collections.abc import Callable

import structlog
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from reconciler.config.settings import Settings
from reconciler.web.cross_site import local_path
from reconciler.web.login.cookies import SessionCookie
from reconciler.web.login.sessions import Grant, Sessions, hash_of
from reconciler.web.visitors import address_of

log = structlog.get_logger()

PRIVATE = {"Cache-Control": "no-store"}
"""Of an answer that no browser shall show again."""


class Logins:
    """Of one daemon. Raises Retryable where the disk does not take it."""

    def __init__(self, settings: Settings, sessions: Sessions, ended: Callable[[bytes], None]) -> None:
        """`ended` is called, in the server's loop, with the SHA-256 of the id of a session that somebody ended."""
        self._sessions, self._tell_ended = sessions, ended
        self._cookie = SessionCookie(settings.web)

    async def begin(self, request: Request, grant: Grant, next_: str | None) -> Response:
        """Log somebody in, and send the browser to `next_`, if that is a path of ours.

        The session has a new id, and the one that the browser had is over: whoever knew that one knows nothing now.
        """
        await self._end_current(request)
        id_ = await run_in_threadpool(self._sessions.begin, grant)
        log.info("login", who=grant.name, role=grant.role.value, client=address_of(request), result="logged in")
        response = RedirectResponse(local_path(next_), 303, PRIVATE)
        self._cookie.set(response, id_)
        return response

    async def end(self, request: Request) -> Response:
        """Log a browser out."""
        if name := await self._end_current(request):
            log.info("login", who=name, client=address_of(request), result="logged out")
        response = RedirectResponse("/login", 303, {**PRIVATE, "Clear-Site-Data": '"cache"'})
        self._cookie.clear(response)
        return response

    async def _end_current(self, request: Request) -> str:
        """Whose session it was."""
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
