"""`/login/oidc`, which sends a browser to the identity provider, and `/login/callback`, where it comes back."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator

import structlog
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from reconciler.config.settings import Settings
from reconciler.web.bounded_log import BoundedLog
from reconciler.web.login.cookies import OwnCookies
from reconciler.web.login.credentials import oidc_source
from reconciler.web.login.logins import PRIVATE, Logins
from reconciler.web.login.oidc import CALLBACK, LASTS, LoginFailed, OidcLogin
from reconciler.web.login.sessions import Grant
from reconciler.web.visitors import address_of

log = structlog.get_logger()

# A provider that does not answer holds so many threads: pages have the others.
_MOST_AT_ONCE = 4
# A browser sends all its cookies with each request, and servers take some KiB of them.
_MOST_COOKIES = 4000


def oidc_routes(settings: Settings, logins: Logins) -> Iterator[Route]:
    """None where no provider is configured."""
    auth, cookies = settings.web.auth, OwnCookies(settings.web)
    if auth.oidc is None or settings.web.url is None:
        return
    login = OidcLogin(auth.oidc, settings.web.url)
    slots, refusals = asyncio.Semaphore(_MOST_AT_ONCE), BoundedLog("login_lines_left_out")

    def failed(request: Request, error: LoginFailed, next_: str | None) -> Response:
        # What belongs to no login of ours comes from anybody, and is not worth a line.
        if error.status != 400 and refusals.may_write(status=str(error.status)):
            log.warning("login", client=address_of(request), result="refused", reason=error.detail)
        return logins.page(request, next_, str(error), error.status)

    async def begin(request: Request) -> Response:
        next_ = request.query_params.get("next")
        try:
            async with slots:
                begun = await run_in_threadpool(login.begin, next_)
        except LoginFailed as error:
            return failed(request, error, next_)
        response = RedirectResponse(begun.location, 303, PRIVATE)
        cookies.set(response, _cookie_name(begun.state, cookies), begun.cookie, LASTS)
        for name in _crowded_out(request, cookies):
            cookies.clear(response, name)
        return response

    async def come_back(request: Request) -> Response:
        query = dict(request.query_params)
        cookie = request.cookies.get(_cookie_name(query.get("state", ""), cookies), "")
        try:
            async with slots:
                found = await run_in_threadpool(login.finish, query, cookie)
        except LoginFailed as error:
            return failed(request, error, None)
        grant = Grant(found.name, found.role, oidc_source(auth))
        response = await logins.begin(request, grant, found.next)
        cookies.clear(response, _cookie_name(query["state"], cookies))
        return response

    yield Route("/login/oidc", begin, methods=["GET"])
    yield Route(CALLBACK, come_back, methods=["GET"])


def _cookie_name(state: str, cookies: OwnCookies) -> str:
    """One for each login that is under way: several tabs may log in at once."""
    return cookies.name(f"reconciler-login-{state[:8]}")


def _crowded_out(request: Request, cookies: OwnCookies) -> Iterator[str]:
    """Logins that the browser has begun and forgets now: another site can make it begin any number of them, until it
    could ask for no page any more. Browsers name the latest last."""
    ours, size = re.compile(rf"{_cookie_name('', cookies)}[A-Za-z0-9_-]{{8}}"), 0
    for name, value in reversed(request.cookies.items()):
        if ours.fullmatch(name):
            size += len(name) + len(value)
            if size > _MOST_COOKIES:
                yield name
