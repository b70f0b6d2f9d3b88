"""The cookies that we set: the id of a session, and those of logins that are under way at an identity provider."""

from __future__ import annotations

import re

from starlette.requests import Request
from starlette.responses import Response

from reconciler.config.web import Web
from reconciler.web.login.sessions import ID_LENGTH

_ID = re.compile(rf"[A-Za-z0-9_-]{{{ID_LENGTH}}}", re.ASCII)


class OwnCookies:
    """By https their names begin with `__Host-`: no other host, and no plain http, can set one of such a name. Only on
    loopback there may be no https; there they have other names, and are not marked `Secure`."""

    def __init__(self, web: Web) -> None:
        self._is_secure = web.is_https

    def name(self, plain: str) -> str:
        """What browsers call it."""
        return f"__Host-{plain}" if self._is_secure else plain

    def set(self, response: Response, name: str, value: str, seconds: int) -> None:
        response.set_cookie(
            name, value, max_age=seconds, path="/", secure=self._is_secure, httponly=True, samesite="lax"
        )

    def clear(self, response: Response, name: str) -> None:
        response.delete_cookie(name, path="/", secure=self._is_secure, httponly=True, samesite="lax")


class SessionCookie:
    """The id of a session."""

    def __init__(self, web: Web) -> None:
        self._cookies = OwnCookies(web)
        self._seconds = int(web.auth.session)
        self.name = self._cookies.name("reconciler")

    def read(self, request: Request) -> str | None:
        """The id that a browser shows. None also for two of them: one is not ours, and nobody knows which."""
        pairs = (pair.partition("=") for line in request.headers.getlist("cookie") for pair in line.split(";"))
        found = {value.strip() for name, _, value in pairs if name.strip() == self.name}
        (id_,) = found if len(found) == 1 else ("",)
        return id_ if _ID.fullmatch(id_) else None

    def set(self, response: Response, id_: str) -> None:
        self._cookies.set(response, self.name, id_, self._seconds)

    def clear(self, response: Response) -> None:
        self._cookies.clear(response, self.name)
