"""`POST /webhooks/NAME`: a forge says that something was pushed, so that git is asked now and not at the next poll.

What it says is only a hint. Git is asked as always, and polled as before; whoever replays a webhook makes us ask once
more, at most once a second. Who does not know the secret gets one refusal, before anything of the body is understood.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import StrEnum

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from reconciler.config.forge import WebhookSettings
from reconciler.config.secret_files import CachedSecret
from reconciler.config.settings import Settings
from reconciler.errors import Retryable
from reconciler.report.redact import one_line
from reconciler.web.bounded_log import BoundedLog
from reconciler.web.control import Control
from reconciler.web.metrics import Metrics
from reconciler.web.request_body import read_body
from reconciler.web.visitors import address_of
from reconciler.web.webhooks.events import Event, What, read_event
from reconciler.web.webhooks.followed import Followed
from reconciler.web.webhooks.signatures import is_refused_unread, is_signed

log = structlog.get_logger()

MOST_BYTES = 1 << 20
"""Of one body: more is refused, and git is polled anyway."""
_LEAST_SECONDS = 1.0
_LONGEST_SHOWN = 200


class WebhookResult(StrEnum):
    """What became of a request; values of a metric's label."""

    SOURCE_ASKED = "source_asked"
    PULL_REQUEST = "pull_request"
    UNREADABLE = "unreadable"
    OTHER_EVENT = "other_event"
    OTHER_REPOSITORY = "other_repository"
    OTHER_REF = "other_ref"
    FORBIDDEN = "forbidden"
    TOO_LARGE = "too_large"
    ENCODED = "encoded"
    INCOMPLETE = "incomplete"
    NO_SECRET = "no_secret"  # noqa: S105


# One text for all reasons why a request is not believed.
_REFUSALS = {
    WebhookResult.FORBIDDEN: (403, "this request does not bear the signature of this webhook's secret\n"),
    WebhookResult.TOO_LARGE: (413, f"a body may have {MOST_BYTES} bytes\n"),
    WebhookResult.ENCODED: (415, "a body must not be compressed\n"),
    WebhookResult.INCOMPLETE: (400, "the body is not complete\n"),
    WebhookResult.NO_SECRET: (503, "the secret of this webhook cannot be read; the log of the daemon says why\n"),
}
# What comes after a refusal is not read.
_CLOSE = {"Connection": "close"}


class _Refused(Exception):
    def __init__(self, result: WebhookResult) -> None:
        super().__init__(result)
        self.result = result


def webhook_routes(settings: Settings, control: Control, metrics: Metrics) -> list[Route]:
    """None where no webhook is configured."""
    known = {each.name: _Webhook(each) for each in settings.web.webhooks}
    if not known:
        return []
    for name in known:
        metrics.expect_webhook(name, WebhookResult)
    hints, lines = _Hints(settings, control), _Lines()

    async def receive(request: Request) -> Response:
        webhook = known.get(request.path_params["name"])
        if webhook is None:
            return Response("no such webhook\n", 404, _CLOSE)
        try:
            event = await webhook.read(request)
        except _Refused as refused:
            metrics.count_webhook(webhook.name, refused.result)
            lines.refused(webhook.name, refused.result, request)
            status, text = _REFUSALS[refused.result]
            return Response(text, status, _CLOSE)
        result = hints.follow(event)
        metrics.count_webhook(webhook.name, result)
        lines.received(webhook.name, result, event)
        return Response("accepted\n", 202)

    return [Route("/webhooks/{name}", receive, methods=["POST"])]


class _Webhook:
    """One that is configured: whose requests are believed."""

    def __init__(self, settings: WebhookSettings) -> None:
        self.name = settings.name
        self._kind = settings.kind
        self._secret = CachedSecret(settings.secret_file, f"web.webhooks: {settings.name}: secret_file")
        self._reported = ""

    async def read(self, request: Request) -> Event:
        """What a request says, once it is believed. Raises _Refused."""
        headers = request.headers
        if headers.get("content-encoding", "identity").lower() not in ("", "identity"):
            raise _Refused(WebhookResult.ENCODED)
        if _claimed_length(request) > MOST_BYTES:
            raise _Refused(WebhookResult.TOO_LARGE)
        secret = self._read_secret()
        if is_refused_unread(self._kind, secret, headers):
            raise _Refused(WebhookResult.FORBIDDEN)
        body = await _body(request)
        if not is_signed(self._kind, secret, headers, body):
            raise _Refused(WebhookResult.FORBIDDEN)
        return read_event(self._kind, headers, body)

    def _read_secret(self) -> str:
        try:
            secret = self._secret.read()
        except Retryable as error:
            if str(error) != self._reported:
                log.error("webhook_secret_failed", webhook=self.name, error=str(error), instead="git is polled")
            self._reported = str(error)
            raise _Refused(WebhookResult.NO_SECRET) from None
        self._reported = ""
        return secret


def _claimed_length(request: Request) -> int:
    """The server has checked that it is a number, and ends the body there."""
    text = request.headers.get("content-length", "0")
    return int(text[:20]) if text.isascii() and text.isdigit() else 0


async def _body(request: Request) -> bytes:
    """The server ends a connection that sends it too slowly. Raises _Refused."""
    try:
        data = await read_body(request, MOST_BYTES)
    except ClientDisconnect:
        raise _Refused(WebhookResult.INCOMPLETE) from None
    if data is None:
        raise _Refused(WebhookResult.TOO_LARGE)
    return data


# ---------------------------------------------------------------- what follows


class _Hints:
    """Decides what a believed request leads to."""

    def __init__(self, settings: Settings, control: Control) -> None:
        self._followed = Followed(settings.source, settings.forge)
        self._source = _SeldomCall(control.on_push)
        self._pull_requests = _SeldomCall(control.on_pull_request)

    def follow(self, event: Event) -> WebhookResult:
        """Returns at once."""
        if event.what is What.OTHER:
            return WebhookResult.OTHER_EVENT
        if not self._followed.is_repository(event.repository):
            return WebhookResult.OTHER_REPOSITORY
        if event.what is What.PULL_REQUEST:
            self._pull_requests.ask()
            return WebhookResult.PULL_REQUEST
        if not self._followed.is_one_of(event.refs):
            return WebhookResult.OTHER_REF
        self._source.ask()
        if event.what is What.UNREADABLE:
            self._pull_requests.ask()
            return WebhookResult.UNREADABLE
        return WebhookResult.SOURCE_ASKED


class _SeldomCall:
    """Passes on the first of many questions at once, and those that come soon after as one, when a second is over.

    So whoever replays a webhook cannot make us ask the forge faster.
    """

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call
        self._next = 0.0
        self._waits = False

    def ask(self) -> None:
        loop = asyncio.get_running_loop()
        if self._waits:
            return
        if loop.time() >= self._next:
            self._pass_on()
        else:
            self._waits = True
            loop.call_at(self._next, self._pass_on)

    def _pass_on(self) -> None:
        self._waits = False
        self._next = asyncio.get_running_loop().time() + _LEAST_SECONDS
        self._call()


# ---------------------------------------------------------------- what is logged of it


class _Lines:
    def __init__(self) -> None:
        self._log = BoundedLog("webhook_lines_left_out")

    def received(self, webhook: str, result: WebhookResult, event: Event) -> None:
        if self._log.may_write(webhook=webhook, result=result.value):
            shown = {"repository": _shown(event.repository), "ref": _shown(" ".join(event.refs))}
            log.info("webhook_received", webhook=webhook, result=result.value, **shown)

    def refused(self, webhook: str, result: WebhookResult, request: Request) -> None:
        # A secret that fails has a line of its own.
        if result is not WebhookResult.NO_SECRET and self._log.may_write(webhook=webhook, result=result.value):
            log.warning("webhook_refused", webhook=webhook, result=result.value, client=address_of(request))


def _shown(text: str) -> str:
    """JSON may hold halves of characters, which no stream takes."""
    return one_line(text[:_LONGEST_SHOWN].encode("utf-8", "replace").decode())
