"""The login of a GitHub App: its key signs a token of minutes, which buys one of an hour for the repository."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping
from datetime import datetime
from importlib.util import find_spec
from urllib.parse import quote

from reconciler.config.secret_files import path_of, read_lines
from reconciler.errors import Retryable, SettingsError
from reconciler.forge.answers import integer, text
from reconciler.forge.github import HEADERS
from reconciler.forge.http import ForgeAway, ForgeRefused, Http, LoginRefused, Request

_KEY = "forge.app.key_file"
INSTALL = f"{sys.executable} -m pip install 'pyjwt[crypto]'"
# GitHub takes at most ten minutes, and refuses what was issued in its future: clocks differ.
_SIGNED_AGO, _SIGNED_FOR = 60, 540
_RENEWED_BEFORE = 300.0


class AppKey:
    """What proves that we are the app. The key is read each time."""

    def __init__(self, app: int, key_file: str) -> None:
        """Raises SettingsError where what signs is not installed."""
        self._app, self._key_file = app, key_file
        if not (find_spec("jwt") and find_spec("cryptography")):
            raise SettingsError(f"forge.app: needs PyJWT with cryptography; run: {INSTALL}")

    def login(self) -> Mapping[str, str]:
        """Raises Retryable where the key cannot be read or is none."""
        return {"Authorization": f"Bearer {self._sign(int(time.time()))}"}

    def _sign(self, now: int) -> str:
        import jwt

        claims = {"iat": now - _SIGNED_AGO, "exp": now + _SIGNED_FOR, "iss": str(self._app)}
        key = read_lines(self._key_file, _KEY)
        try:
            return jwt.encode(claims, key, algorithm="RS256")
        except (jwt.PyJWTError, ValueError, TypeError):
            # What it says may repeat the key.
            where = path_of(self._key_file, _KEY)
            raise Retryable(f"{_KEY}: {where} is no RSA private key in PEM; make one in the app's settings") from None


class Installation:
    """The app in one repository. For any number of threads."""

    def __init__(self, http: Http, repository: str, installation: int | None) -> None:
        """`http`: with the login of the app. `installation`: None: asked for by the repository."""
        self._http, self._repository, self._configured = http, repository, installation
        self._lock = threading.Lock()
        self._token, self._ends = "", 0.0

    def login(self) -> Mapping[str, str]:
        """Raises as `Http.ask` does, but nothing Terminal: the app may be installed later."""
        with self._lock:
            if time.time() > self._ends - _RENEWED_BEFORE:
                self._token, self._ends = self._obtain()
            return {"Authorization": f"Bearer {self._token}"}

    def forget(self) -> None:
        """The token was refused: it may have been revoked, or have fewer rights than the app has now."""
        with self._lock:
            self._ends = 0.0

    def _obtain(self) -> tuple[str, float]:
        """The token, and when it ends."""
        try:
            path = f"/app/installations/{self._configured or self._find()}/access_tokens"
            body = {"repositories": [self._repository.rpartition("/")[2]]}
            answer = self._http.ask(Request("POST", path, body=body, headers=HEADERS))
        except ForgeRefused as error:
            fix = f"install the app for {self._repository}, and check forge.app.installation"
            raise LoginRefused(f"{error}; {fix}") from None
        except LoginRefused as error:
            fix = f"check forge.app.id, {_KEY} and this machine's clock"
            raise LoginRefused(f"{str(error).rpartition('; ')[0]}; {fix}") from None
        return text(answer.body, "token"), _time(text(answer.body, "expires_at"))

    def _find(self) -> int:
        return integer(
            self._http.ask(Request("GET", f"/repos/{quote(self._repository)}/installation", headers=HEADERS)).body,
            "id",
        )


def _time(stamp: str) -> float:
    """Raises ForgeAway where it is none."""
    try:
        return datetime.fromisoformat(stamp).timestamp()
    except ValueError:
        raise ForgeAway("GitHub gave a token without its end; trying again later") from None
