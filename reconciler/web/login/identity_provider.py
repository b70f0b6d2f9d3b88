"""An identity provider over HTTPS: what it says of itself, its keys, and what it gives for the code of a login.

What it says of itself and its keys are asked for at the first login, and again after an hour.
"""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import quote_plus, urlencode, urlsplit

import urllib3

from reconciler.config.secret_files import read_secret
from reconciler.config.web import OidcSettings
from reconciler.errors import ReconcileError, Retryable
from reconciler.report.redact import one_line
from reconciler.system.outgoing_http import (
    AnswerTooLong,
    answer_to,
    connections,
    decoded_json,
    read_answer,
    tls_context,
)
from reconciler.web.login.id_token import Claims, ExpectedClaims, SigningKeys, UnknownKey

Kept = TypeVar("Kept")

_KEY = "web.auth.oidc"
_SECRET = f"{_KEY}.client_secret_file"
_KEPT_SECONDS = 3600.0
# An unknown key may be a new one, or made up by whoever sends it.
_NEW_KEYS_SECONDS = 60.0
_AFTER_FAILURE_SECONDS = 5.0
_ANSWER_SECONDS = 10.0
_MOST_BYTES = 1 << 20
_FORM = {"Content-Type": "application/x-www-form-urlencoded"}
_MOST_TEXT = 200


class ProviderRefused(Retryable):
    """The provider answers that it does not let somebody in; the message says what it says."""


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a provider says of itself: OpenID Connect Discovery 1.0. `userinfo` is empty where it has none."""

    issuer: str
    authorization: str
    token: str
    keys: str
    userinfo: str
    takes_basic: bool
    names_itself: bool
    """Its answers carry `iss`: RFC 9207."""


@dataclass(frozen=True, slots=True)
class IssuedTokens:
    """What a code was exchanged for. Both are secrets."""

    id_token: str = field(repr=False)
    access_token: str = field(repr=False)


class IdentityProvider:
    """One provider. For any number of threads. All methods raise ReconcileError, which is for the log: it says more
    than strangers need to know."""

    def __init__(self, settings: OidcSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._connections: dict[str, urllib3.PoolManager] = {}
        self._metadata = _Fetched(self._discover, clock)
        self._keys = _Fetched(lambda: SigningKeys(self._get(self.metadata().keys)), clock)

    def metadata(self) -> Metadata:
        return self._metadata.get(_KEPT_SECONDS)

    def redeem(self, code: str, verifier: str, redirect: str) -> IssuedTokens:
        """Raises ProviderRefused as well: a code serves once, for about a minute."""
        metadata = self.metadata()
        headers, fields = self._client(metadata)
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect,
            "code_verifier": verifier,
            **fields,
        }
        status, body = self._ask("POST", metadata.token, {**_FORM, **headers}, urlencode(form).encode())
        if status in (400, 401):
            raise ProviderRefused(f"{self.called} refused the login: {_said(body)}")
        if status != 200:
            raise Retryable(f"{self.called}: {urlsplit(metadata.token).path}: status {status} instead of tokens")
        return IssuedTokens(*(_text(body, key, self.called) for key in ("id_token", "access_token")))

    def _client(self, metadata: Metadata) -> tuple[Mapping[str, str], Mapping[str, str]]:
        """Headers, or fields of the form, that prove who we are."""
        client, secret = self._settings.client_id, read_secret(self._settings.client_secret_file, _SECRET)
        if not metadata.takes_basic:
            return {}, {"client_id": client, "client_secret": secret}
        pair = f"{quote_plus(client)}:{quote_plus(secret)}".encode()
        return {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}, {}

    def claims(self, token: str, expected: ExpectedClaims) -> Claims:
        """What an ID token says. Raises TokenRefused."""
        try:
            return self._keys.get(_KEPT_SECONDS).claims(token, expected)
        except UnknownKey:
            return self._keys.get(_NEW_KEYS_SECONDS).claims(token, expected)

    def userinfo(self, access_token: str) -> Claims:
        """What else it says of a person; nothing where it has no such endpoint."""
        where = self.metadata().userinfo
        return self._get(where, {"Authorization": f"Bearer {access_token}"}) if where else {}

    @property
    def called(self) -> str:
        """What messages call it."""
        return f"the identity provider {urlsplit(self._settings.issuer).netloc}"

    def _discover(self) -> Metadata:
        issuer = self._settings.issuer
        said = self._get(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
        if said.get("issuer") != issuer:
            found = one_line(str(said.get("issuer")))[:_MOST_TEXT]
            raise Retryable(f'{_KEY}.issuer: {issuer} calls itself "{found}"; write that, if you trust it')
        # OpenID Connect Discovery 1.0: without the list, `client_secret_basic` it is.
        ways = said.get("token_endpoint_auth_methods_supported")
        return Metadata(
            issuer=issuer,
            authorization=_address(said, "authorization_endpoint"),
            token=_address(said, "token_endpoint"),
            keys=_address(said, "jwks_uri"),
            userinfo=_address(said, "userinfo_endpoint") if said.get("userinfo_endpoint") else "",
            takes_basic=not isinstance(ways, list) or "client_secret_basic" in ways,
            names_itself=said.get("authorization_response_iss_parameter_supported") is True,
        )

    def _get(self, url: str, headers: Mapping[str, str] | None = None) -> Mapping[str, Any]:
        status, body = self._ask("GET", url, headers or {})
        if status != 200 or not isinstance(body, dict):
            what = "no JSON object" if status == 200 else f"status {status}"
            raise Retryable(f"{self.called}: {urlsplit(url).path}: {what} instead of an answer; is a proxy before it?")
        return body

    def _ask(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None) -> tuple[int, Any]:
        """Status, and the JSON that came with it, if any."""
        try:
            timeout = urllib3.Timeout(total=_ANSWER_SECONDS)
            with answer_to(self._connections_to(url), method, url, headers, timeout, body) as response:
                return response.status, decoded_json(read_answer(response, _MOST_BYTES))
        except (urllib3.exceptions.HTTPError, OSError, AnswerTooLong) as error:
            reason = one_line(str(getattr(error, "reason", None) or error))[:_MOST_TEXT]
            raise Retryable(f"{self.called}: {urlsplit(url).path}: no answer: {reason}") from None

    def _connections_to(self, url: str) -> urllib3.PoolManager:
        host = urlsplit(url).netloc
        if host not in self._connections:
            context = tls_context(self._settings.ca_file, f"{_KEY}.ca_file")
            self._connections[host] = connections(url, context, self.called)
        return self._connections[host]


class _Fetched(Generic[Kept]):
    """A value that is asked for by one thread at a time. A failure is remembered for seconds, so that a crowd does not
    wait for one timeout after another."""

    def __init__(self, fetch: Callable[[], Kept], clock: Callable[[], float]) -> None:
        self._fetch, self._clock, self._lock = fetch, clock, threading.Lock()
        self._known: tuple[float, Kept] | None = None
        self._failed: tuple[float, str] | None = None

    def get(self, most_age: float) -> Kept:
        """Not older than so many seconds. Raises ReconcileError."""
        with self._lock:
            now = self._clock()
            if self._known is not None and now - self._known[0] < most_age:
                return self._known[1]
            if self._failed is not None and now - self._failed[0] < _AFTER_FAILURE_SECONDS:
                raise Retryable(self._failed[1])
            try:
                self._known, self._failed = (now, self._fetch()), None
            except ReconcileError as error:
                self._failed = (self._clock(), str(error))
                raise
            return self._known[1]


def _address(said: Mapping[str, Any], key: str) -> str:
    """Raises Retryable where a secret would go over a line that others can read."""
    found = said.get(key)
    if isinstance(found, str) and found.startswith("https://") and found.isascii() and found.isprintable():
        return found
    raise Retryable(
        f"{_KEY}.issuer: the provider's {key} must be an https URL, and is {one_line(str(found))[:_MOST_TEXT]}"
    )


def _text(body: Any, key: str, called: str) -> str:
    found = body.get(key) if isinstance(body, dict) else None
    if not isinstance(found, str) or not found or not found.isascii():
        raise Retryable(f"{called} gave no {key}; is {_KEY}.client_id that of a web application?")
    return found


def _said(body: Any) -> str:
    """An OAuth error, in one line: RFC 6749, 5.2."""
    known = body if isinstance(body, dict) else {}
    said = error_text(str(known.get("error", "")), str(known.get("error_description", "")))
    is_ours = known.get("error") in ("invalid_client", "unauthorized_client")
    return f"{said}; check {_KEY}.client_id and {_SECRET}" if is_ours else said


def error_text(error: str, description: str) -> str:
    """`access_denied (The user cancelled)`: what a provider says, cut to a line."""
    text = one_line(f"{error[:_MOST_TEXT]} ({description[:_MOST_TEXT]})" if description else error[:_MOST_TEXT])
    return text or "no reason given"
