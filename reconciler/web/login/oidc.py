"""Login with an identity provider: OpenID Connect, authorization code flow with state, nonce and PKCE.

`begin` sends a browser away with a signed cookie that lasts ten minutes; `finish` is asked when it comes back. Nothing
is kept here of logins that are under way: whoever begins many of them crowds nobody out.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import urlencode

from reconciler.config.web import OidcSettings
from reconciler.errors import ReconcileError
from reconciler.report.redact import one_line
from reconciler.web.cross_site import local_path
from reconciler.web.login.id_token import Claims, ExpectedClaims, TokenRefused
from reconciler.web.login.identity_provider import IdentityProvider, IssuedTokens, ProviderRefused, error_text
from reconciler.web.visitors import Role, role_of

CALLBACK = "/login/callback"
LASTS = 600
"""Seconds that somebody may take at the provider."""
_MOST_CODE = 8 << 10
_MOST_NAME = 256
_MOST_GROUPS = 1000
# Logins that came back in the last ten minutes: all but an attack.
_MOST_USED = 10_000


class LoginFailed(Exception):
    """Nobody is logged in. The message is for the person, `detail` for the log; `status`: HTTP's."""

    def __init__(self, status: int, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.status, self.detail = status, detail or message


@dataclass(frozen=True, slots=True)
class Attempt:
    """A login that is under way; all of it goes along in the browser's cookie. `until`: seconds since 1970."""

    state: str
    nonce: str
    verifier: str
    next: str
    until: float


@dataclass(frozen=True, slots=True)
class Begun:
    """Where the browser goes, and the cookie that it must bring back."""

    location: str
    state: str
    cookie: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """Who came back, and the page that they wanted."""

    name: str
    role: Role
    next: str


class OidcLogin:
    """For any number of threads; both methods may wait for the provider."""

    def __init__(
        self,
        settings: OidcSettings,
        page_url: str,
        provider: IdentityProvider | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`page_url`: `web.url`."""
        self._settings, self._clock = settings, clock
        self._provider = provider or IdentityProvider(settings)
        self._redirect = page_url.rstrip("/") + CALLBACK
        # A new one with each process: who is at the provider while it restarts begins again.
        self._key = secrets.token_bytes(32)
        self._used = _Used()

    def begin(self, next_path: str | None) -> Begun:
        """Raises LoginFailed."""
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        attempt = Attempt(state, nonce, verifier, local_path(next_path), self._clock() + LASTS)
        try:
            where = self._provider.metadata().authorization
        except ReconcileError as error:
            raise _away(self._provider, error) from None
        query = {
            "response_type": "code",
            "client_id": self._settings.client_id,
            "redirect_uri": self._redirect,
            "scope": " ".join(dict.fromkeys(("openid", *self._settings.scopes))),
            "state": state,
            "nonce": nonce,
            "code_challenge": _unpadded(hashlib.sha256(verifier.encode()).digest()),
            "code_challenge_method": "S256",
        }
        location = f"{where}{'&' if '?' in where else '?'}{urlencode(query)}"
        return Begun(location, state, self._sealed(attempt))

    def finish(self, query: Mapping[str, str], cookie: str) -> LoggedIn:
        """`query`: of the address that the browser came back to. Raises LoginFailed."""
        attempt = self._attempt(query.get("state", ""), cookie)
        try:
            self._check_answer(query)
            claims = self._claims(attempt, query.get("code", ""))
        except ProviderRefused as error:
            raise LoginFailed(403, f"{error}") from None
        except TokenRefused as error:
            raise LoginFailed(502, f"{self._provider.called}: {error}") from None
        except ReconcileError as error:
            raise _away(self._provider, error) from None
        return self._person(claims, attempt)

    def _attempt(self, state: str, cookie: str) -> Attempt:
        """The one that this browser began, which is over with this."""
        attempt = self._opened(cookie)
        if attempt is None or not hmac.compare_digest(attempt.state.encode(), state.encode("utf-8", "replace")):
            page = self._redirect.removesuffix(CALLBACK)
            raise LoginFailed(400, f"This login was not begun in this browser at {page}. Log in again there.")
        if self._clock() > attempt.until:
            raise LoginFailed(400, f"This login took more than {LASTS // 60} minutes. Log in again.")
        if not self._used.is_first(attempt, self._clock()):
            raise LoginFailed(400, "This login has been used already. Log in again.")
        return attempt

    def _check_answer(self, query: Mapping[str, str]) -> None:
        """Raises ProviderRefused; what another provider says is not looked at."""
        metadata = self._provider.metadata()
        if query.get("iss", metadata.issuer) != metadata.issuer or (metadata.names_itself and "iss" not in query):
            raise ProviderRefused(f"{self._provider.called} did not send this answer: `iss` names another, or none")
        if "error" in query:
            said = error_text(query["error"], query.get("error_description", ""))
            raise ProviderRefused(f"{self._provider.called} did not log you in: {said}")
        if not 0 < len(query.get("code", "")) <= _MOST_CODE:
            raise ProviderRefused(f"{self._provider.called} sent no code")

    def _claims(self, attempt: Attempt, code: str) -> Claims:
        """What the provider says of the person: in the ID token, else at its userinfo endpoint."""
        tokens = self._provider.redeem(code, attempt.verifier, self._redirect)
        expected = ExpectedClaims(
            self._settings.issuer, self._settings.client_id, attempt.nonce, tokens.access_token, int(self._clock())
        )
        claims = self._provider.claims(tokens.id_token, expected)
        if not {self._settings.name_claim, self._settings.groups_claim} <= claims.keys():
            claims = {**self._more(tokens, claims), **claims}
        return verified(claims)

    def _more(self, tokens: IssuedTokens, claims: Claims) -> Claims:
        found = self._provider.userinfo(tokens.access_token)
        if found and found.get("sub") != claims["sub"]:
            raise TokenRefused("its userinfo endpoint names another person")
        return found

    def _person(self, claims: Claims, attempt: Attempt) -> LoggedIn:
        groups = groups_in(claims, self._settings.groups_claim)
        name = name_in(claims, self._settings.name_claim)
        role = role_of(groups, self._settings.viewers, self._settings.operators)
        if role is None:
            listed = ", ".join(one_line(group)[:100] for group in groups[:20]) or "none"
            settings = "web.auth.oidc.viewers or operators"
            raise LoginFailed(403, f"{name} is in no group of {settings}. Your groups: {listed}.")
        return LoggedIn(name, role, attempt.next)

    def _sealed(self, attempt: Attempt) -> str:
        data = _unpadded(json.dumps(asdict(attempt)).encode())
        return f"{data}.{self._signature(data)}"

    def _opened(self, cookie: str) -> Attempt | None:
        """None: it is none of ours."""
        data, _, signature = cookie.partition(".")
        if not hmac.compare_digest(self._signature(data).encode(), signature.encode("utf-8", "replace")):
            return None
        return Attempt(**json.loads(base64.urlsafe_b64decode(data + "=" * (-len(data) % 4))))

    def _signature(self, data: str) -> str:
        return _unpadded(hmac.digest(self._key, data.encode("utf-8", "replace"), "sha256"))


class _Used:
    """Logins that have come back: each does once."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}
        self._lock = threading.Lock()

    def is_first(self, attempt: Attempt, now: float) -> bool:
        with self._lock:
            while self._until and (len(self._until) >= _MOST_USED or next(iter(self._until.values())) < now):
                del self._until[next(iter(self._until))]
            if attempt.state in self._until:
                return False
            self._until[attempt.state] = now + LASTS
            return True


def groups_in(claims: Claims, claim: str) -> tuple[str, ...]:
    """A list of texts, or one text; anything else names no group. Of addresses only one that is called verified."""
    if claim == "email" and "email_verified" not in claims:
        return ()
    found: Any = claims.get(claim, ())
    given: Iterable[Any] = [found] if isinstance(found, str) else found if isinstance(found, list) else ()
    return tuple(group for group in given if isinstance(group, str) and group)[:_MOST_GROUPS]


def verified(claims: Claims) -> Claims:
    """Without an email address that the provider has not verified: anybody may have typed it."""
    is_unverified = str(claims.get("email_verified", True)).lower() != "true"
    return {name: value for name, value in claims.items() if name != "email" or not is_unverified}


def name_in(claims: Claims, claim: str) -> str:
    """The subject where there is no such name, or one with signs that nobody sees, so that it looks like another's."""
    found = claims.get(claim)
    name = found.strip(" ") if isinstance(found, str) and found.isprintable() else ""
    return (name or one_line(str(claims["sub"])))[:_MOST_NAME]


def _away(provider: IdentityProvider, error: ReconcileError) -> LoginFailed:
    text = (
        f"{provider.called} cannot be asked now, so that nobody can log in. Who is logged in stays so. "
        "Try again in a minute; the daemon's log says why."
    )
    return LoginFailed(503, text[0].upper() + text[1:], str(error))


def _unpadded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
