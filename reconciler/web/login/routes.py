"""`/login` and `/logout`: the form for a token, and where else somebody can log in."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.util import find_spec
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from reconciler.config.settings import Settings
from reconciler.errors import SettingsError
from reconciler.web.cross_site import local_path
from reconciler.web.login.credentials import AccessRefused, StaticTokens, grant_of
from reconciler.web.login.logins import Logins
from reconciler.web.request_body import read_form
from reconciler.web.visitors import address_of

INSTALL = f"{sys.executable} -m pip install joserfc"
LOGIN = "/login"
LOGOUT = "/logout"
_MOST_BYTES = 8 << 10
_WRONG = "this is not one of the tokens of web.auth.tokens"


def login_address(next_: str) -> str:
    """Where somebody logs in, and from there goes on to a path of ours."""
    return f"{LOGIN}?next={quote(local_path(next_), safe='/')}"


def login_routes(settings: Settings, logins: Logins, tokens: StaticTokens) -> Iterator[Route]:
    """None where no browser can log in here."""
    auth = settings.web.auth
    if not (auth.tokens or auth.oidc):
        return

    async def show(request: Request) -> Response:
        return logins.page(request, request.query_params.get("next"))

    async def log_in(request: Request) -> Response:
        form = await read_form(request, _MOST_BYTES) or {}
        next_ = form.get("next")
        try:
            token = tokens.find_for(address_of(request), form.get("token", "").strip())
        except AccessRefused as refused:
            return logins.page(request, next_, refused.text, refused.status)
        if token is None:
            return logins.page(request, next_, _WRONG, 401)
        return await logins.begin(request, grant_of(token), next_)

    async def log_out(request: Request) -> Response:
        return await logins.end(request)

    yield Route(LOGIN, show, methods=["GET"])
    if auth.tokens:
        yield Route(LOGIN, log_in, methods=["POST"])
    if auth.oidc:
        yield from _oidc_routes(settings, logins)
    yield Route(LOGOUT, log_out, methods=["POST"])


def _oidc_routes(settings: Settings, logins: Logins) -> Iterator[Route]:
    """Only here the extra `oidc` is loaded. Raises SettingsError where it is not installed."""
    if not find_spec("joserfc"):
        raise SettingsError(f"web.auth.oidc: needs joserfc; run: {INSTALL}")
    from reconciler.web.login.oidc_routes import oidc_routes

    return oidc_routes(settings, logins)
