"""One forge over HTTPS: a request with a deadline, an answer within a limit, an error that says if trying again helps.

Nothing is repeated here: what is to be sent waits in the outbox, also while the forge is away. No redirect is followed,
because the token would go along.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import urllib3

from reconciler.errors import Retryable, Terminal
from reconciler.report.redact import scrub_text
from reconciler.system.outgoing_http import (
    AnswerTooLong,
    answer_to,
    connections,
    decoded_json,
    read_answer,
    tls_context,
)

_MOST_BYTES = 8 << 20
_MOST_TEXT = 300
_LONGEST_PAUSE = 3600.0


class ForgeAway(Retryable):
    """No answer, or one that says that the forge does not work now. It may have done what was asked."""


class ForgeBusy(Retryable):
    """Too many requests. `retry_after`: seconds until the forge wants to hear from us again."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class LoginRefused(Retryable):
    """The token is refused, or may not do this; another one may come into its file."""


class ForgeRefused(Terminal):
    """The forge does not accept this request, and would not another time. `status`: HTTP's."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Answer:
    """`body`: the decoded JSON; None where the answer has none. Header names are in small letters."""

    status: int
    headers: Mapping[str, str]
    body: Any = None


@dataclass(frozen=True, slots=True)
class Request:
    """`path` begins with `/` and is quoted already. `body` goes out as JSON, bytes as they are. `also_fine`: statuses
    that are no errors, beside 2xx and 304."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    also_fine: tuple[int, ...] = ()


class Http:
    """Requests to one base address. For any number of threads."""

    def __init__(
        self,
        base: str,
        login: Callable[[], Mapping[str, str]],
        *,
        called: str,
        ca_file: Path | None = None,
        ca_key: str = "forge.ca_file",
        timeout: float = 10.0,
        is_secret: bool = False,
        speaks_json: bool = True,
        refused: Callable[[], None] | None = None,
    ) -> None:
        """`base`: `https://HOST/api/v1`. `login`: the headers that say who we are, asked for each time. `called`: what
        messages call the forge. With `is_secret` no message repeats what the other side says, since that may repeat
        the address. Where it `speaks_json`, a success with something else is a page of a proxy. `refused` is called
        when the login was. Messages call `ca_file` by `ca_key`; it is read by the first request."""
        self._base, self._login, self._called, self._timeout = base, login, called, timeout
        self._is_secret, self._speaks_json, self._refused = is_secret, speaks_json, refused
        self._ca_file, self._ca_key = ca_file, ca_key
        self._pool: urllib3.PoolManager | None = None

    @property
    def base(self) -> str:
        return self._base

    def ask(self, request: Request) -> Answer:
        """Raises ForgeAway, ForgeBusy, LoginRefused (all Retryable) and ForgeRefused (Terminal).

        Retryable as well while CA certificates or a proxy cannot be used: that must keep no daemon from its start.
        """
        headers, data = dict[str, str](), request.body
        if data is not None:
            headers["Content-Type"] = "application/json"
            data = data if isinstance(data, bytes) else json.dumps(data).encode()
        headers |= dict(self._login()) | dict(request.headers)
        query = f"?{urlencode(request.query)}" if request.query else ""
        answer, raw = self._send(request, f"{self._base}{request.path}{query}", data, headers)
        if (answer.status < 300 and answer.status != 203) or answer.status == 304 or answer.status in request.also_fine:
            self._check_form(answer, raw)
            return answer
        error = self._error(request, answer, raw)
        if self._refused and isinstance(error, LoginRefused):
            self._refused()
        raise error

    def _check_form(self, answer: Answer, raw: bytes) -> None:
        """Raises ForgeAway where a proxy's page says that all is well."""
        if self._speaks_json and answer.status < 300 and answer.body is None and raw.strip() not in (b"", b"null"):
            raise ForgeAway(f"{self._called}: a page came instead of JSON; is a proxy before it? trying again later")

    @property
    def called(self) -> str:
        """What messages call the forge: `GitHub`, `Gitea on git.example.com`."""
        return self._called

    def close(self) -> None:
        if self._pool is not None:
            self._pool.clear()

    def _opened(self) -> urllib3.PoolManager:
        if self._pool is None:
            self._pool = connections(self._base, tls_context(self._ca_file, self._ca_key), self._called)
        return self._pool

    def _send(self, request: Request, url: str, data: bytes | None, headers: Mapping[str, str]) -> tuple[Answer, bytes]:
        pool, timeout = self._opened(), urllib3.Timeout(total=self._timeout)
        try:
            with answer_to(pool, request.method, url, headers, timeout, data) as response:
                raw = self._read(response)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            reason = scrub_text(str(getattr(error, "reason", None) or error))[:_MOST_TEXT]
            raise ForgeAway(f"{self._called}: no answer: {reason}; trying again later") from None
        found = {name.lower(): value for name, value in response.headers.items()}
        return Answer(response.status, found, decoded_json(raw)), raw

    def _read(self, response: urllib3.BaseHTTPResponse) -> bytes:
        try:
            return read_answer(response, _MOST_BYTES)
        except AnswerTooLong as error:
            raise ForgeAway(f"{self._called}: {error}; trying again later") from None

    def _error(self, request: Request, answer: Answer, raw: bytes) -> Retryable | Terminal:
        what = f"{self._called}: {request.method} {request.path.partition('?')[0]}".rstrip()
        said = str(answer.status) if self._is_secret else f"{answer.status} {_said(answer, raw)}".strip()
        if (pause := _pause(answer)) is not None:
            return ForgeBusy(f"{what}: too many requests ({said}); trying again in {pause:.0f} s", pause)
        if answer.status == 203:
            # Azure DevOps', or of a proxy that is not signed in to.
            said = "a page to sign in came instead of an answer"
        if answer.status in (203, 401, 403):
            return LoginRefused(f"{what}: {said}; check the token, {_needed(answer)}, and that it has not expired")
        if self._speaks_json and answer.status in (302, 303):
            return ForgeAway(f"{what}: {said}; it leads to another page, as of a sign-in; trying again later")
        if 300 <= answer.status < 400:
            # Of a page to sign in, of maintenance, or of another name: none says that the message is wrong.
            return ForgeAway(f"{what}: {said}; redirects are not followed: check its address and the repository's name")
        # 409: another request about the same at the same time.
        if answer.status in (408, 409, 425) or answer.status >= 500 or answer.status < 200:
            return ForgeAway(f"{what}: {said}; trying again later")
        return ForgeRefused(f"{what}: {said}", answer.status)


def _said(answer: Answer, raw: bytes) -> str:
    """The forge's own words, on one short line."""
    body = answer.body
    known = body if isinstance(body, dict) else {}
    text = next((_detail(known[key]) for key in ("message", "error", "detail") if known.get(key)), "")
    if isinstance(known.get("errors"), list):
        text = ", ".join(filter(None, (text, *map(_detail, known["errors"]))))
    text = text or raw[:_MOST_TEXT].decode("utf-8", "replace")
    # What is shown is short, and to look through megabytes for secrets takes seconds.
    text = "".join(character if character.isprintable() else " " for character in text[: 10 * _MOST_TEXT])
    return " ".join(scrub_text(text).split())[:_MOST_TEXT]


def _detail(error: object) -> str:
    """A text, or an object; GitHub's name a field and what is wrong with it."""
    if not isinstance(error, dict):
        return str(error)
    return str(error.get("message") or " ".join(str(error[key]) for key in ("field", "code") if error.get(key)))


def _needed(answer: Answer) -> str:
    """GitHub names the permission: `statuses=write`, or several after a semicolon, one of which will do."""
    named = re.sub(r"[^a-z_=,; ]", "", answer.headers.get("x-accepted-github-permissions", ""))[:100]
    return f"which needs {named.replace(';', ' or')}" if named else "what it may do"


def _pause(answer: Answer) -> float | None:
    """Seconds that the forge wants to be left alone; None: it does not say that. The headers are GitHub's, GitLab's."""
    headers = answer.headers
    is_over = headers.get("x-ratelimit-remaining") == "0" or headers.get("ratelimit-remaining") == "0"
    is_over = is_over or "retry-after" in headers or _is_secondary(answer)
    if answer.status != 429 and not (answer.status in (403, 503) and is_over):
        return None
    reset = headers.get("x-ratelimit-reset") or headers.get("ratelimit-reset")
    for value in (_seconds(headers.get("retry-after")), _until(reset)):
        if value is not None:
            return min(max(1.0, value), _LONGEST_PAUSE)
    return 60.0


def _is_secondary(answer: Answer) -> bool:
    """GitHub's limit on bursts, which may have no header."""
    return isinstance(answer.body, dict) and "secondary rate limit" in str(answer.body.get("message"))


def _seconds(text: str | None) -> float | None:
    if not text:
        return None
    if text.strip().isascii() and text.strip().isdigit():
        return float(text.strip()[:9])
    try:
        return parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError):
        return None


def _until(text: str | None) -> float | None:
    return float(text[:12]) - time.time() if text and text.isascii() and text.isdigit() else None
