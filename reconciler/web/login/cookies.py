"""The one cookie that we set: the id of a session."""

from __future__ import annotations

import re

from starlette.requests import Request
from starlette.responses import Response

from reconciler.config.web import Web
from reconciler.web.login.sessions import ID_LENGTH

_ID = re.compile(rf"[A-Za-z0-9_-]{{{ID_LENGTH}}}", re.ASCII)


class SessionCookie:
    """By https its name begins with `__Host-`: no other host, and no plain http, can set one of that name. Only on
    loopback there may be no https; there it has another name, and is not marked `Secure`."""

    def __init__(self, web: Web) -> None:
        self._is_secure = web.is_https
        self._seconds = int(web.auth.session)
        self.name = "__Host-reconciler" if self._is_secure else "reconciler"

    def read(self, request: Request) -> str | None:
        """The id that a browser shows. None also for two of them: one is not ours, and nobody knows which."""
        pairs = (pair.partition("=") for line in request.headers.getlist("cookie") for pair in line.split(";"))
        found = {value.strip() for name, _, value in pairs if name.strip() == self.name}
        (id_,) = found if len(found) == 1 else ("",)
        return id_ if _ID.fullmatch(id_) else None

    def set(self, response: Response, id_: str) -> None:
        response.set_cookie(
            self.name, id_, max_age=self._seconds, path="/", secure=self._is_secure, httponly=True, samesite="lax"
        )

    def clear(self, response: Response) -> None:
        response.delete_cookie(self.name, path="/", secure=self._is_secure, httponly=True, samesite="lax")
