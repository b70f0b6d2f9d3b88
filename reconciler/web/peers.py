"""Other daemons, asked in the background what the Overview shows of them.

Each is asked for one small document twice a minute, and less often while it is away. It may be anything: its answer has
a deadline and a limit, is read field by field, and leads nowhere. What was known of it stays known, with its time.
"""

from __future__ import annotations

import heapq
import random
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import structlog
import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NameResolutionError,
    NewConnectionError,
    ProxyError,
    ReadTimeoutError,
    SSLError,
)

from reconciler.config.secret_files import read_secret
from reconciler.config.web import PeerSettings
from reconciler.errors import ReconcileError
from reconciler.model.backoff import backoff
from reconciler.page.summary import ADDRESS, Summary, read_summary
from reconciler.report.redact import one_line, scrub_text
from reconciler.report.status import Document
from reconciler.report.status_parts import timestamp
from reconciler.system.outgoing_http import (
    AnswerTooLong,
    answer_to,
    connections,
    decoded_json,
    read_answer,
    tls_context,
)

log = structlog.get_logger()

EVERY_SECONDS = 30.0
_LONGEST_PAUSE = 600.0
_CONNECT_SECONDS = 3.0
_TIMEOUT_SECONDS = 10.0
_MOST_BYTES = 64 << 10
_MOST_TEXT = 200
_MOST_THREADS = 16
# The first round, so that a thousand of them do not take a whole core at the start.
_BETWEEN_FIRST_SECONDS = 0.01
_STOP_SECONDS = 2.0


class Peers:
    """One of the parts beside the passes."""

    def __init__(self, peers: Sequence[PeerSettings], changed: Callable[[], None]) -> None:
        """`changed` is called by any thread when more than a time is new."""
        self._changed = changed
        contexts = _Contexts()
        self._peers = [_Peer(one, f"web.peers[{index}]", contexts) for index, one in enumerate(peers)]
        begun = time.monotonic()
        self._due = [(begun + number * _BETWEEN_FIRST_SECONDS, number) for number in range(len(peers))]
        self._due_away: list[tuple[float, int]] = []
        self._turn = threading.Condition()
        self._is_stopped = False
        self._threads = [
            threading.Thread(target=self._run, args=(number % 4 < 3,), name=f"peers-{number}", daemon=True)
            for number in range(min(_MOST_THREADS, len(peers)))
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def wake(self) -> None:
        """Nothing that a pass does changes them."""

    def stop(self) -> None:
        """A request in flight is not waited for: its thread ends with its deadline, or with the process."""
        with self._turn:
            self._is_stopped = True
            self._turn.notify_all()
        until = time.monotonic() + _STOP_SECONDS
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, until - time.monotonic()))

    def document(self) -> Document:
        return {"peers": [peer.document for peer in self._peers]}

    def _run(self, asks_away: bool) -> None:
        """Some threads ask only peers that answered the last time: those that do not cost them no minute."""
        while (number := self._next(asks_away)) is not None:
            peer = self._peers[number]
            before, pause = peer.document, peer.ask(time.time())
            self._put(number, pause * random.uniform(0.9, 1.1))  # noqa: S311 - nobody's secret
            if any(before[key] != peer.document[key] for key in ("reachable", "reason", "summary")):
                self._changed()

    def _put(self, number: int, pause: float) -> None:
        with self._turn:
            due = self._due if self._peers[number].document["reachable"] else self._due_away
            heapq.heappush(due, (time.monotonic() + pause, number))
            # Most come after others, for which the threads wait already.
            if due[0][1] == number:
                self._turn.notify_all()

    def _next(self, asks_away: bool) -> int | None:
        """Waits for the next that is due. None: there is nothing more to do."""
        with self._turn:
            while not self._is_stopped:
                known = [due for due in (self._due, self._due_away if asks_away else []) if due]
                first = min(known, key=lambda due: due[0], default=None)
                left = first[0][0] - time.monotonic() if first else None
                if first and left is not None and left <= 0:
                    return heapq.heappop(first)[1]
                self._turn.wait(left)
        return None


class _Away(Exception):
    """Nothing is known of a peer now; the message says why, and what to do."""


class _Peer:
    """One of them, and what is known of it. Asked by one thread at a time."""

    def __init__(self, settings: PeerSettings, key: str, contexts: _Contexts) -> None:
        """`key`: where it stands in the config."""
        self._settings, self._key, self._contexts = settings, key, contexts
        self._url = settings.url.rstrip("/") + ADDRESS
        self._pool: urllib3.PoolManager | None = None
        self._etag = ""
        self._known: Summary | None = None
        self._failures = 0
        self.document: Document = {
            "name": settings.name,
            "url": settings.url,
            "reachable": False,
            "reason": "it was not asked yet",
            "since": None,
            "observedAt": None,
            "summary": None,
        }

    def ask(self, now: float) -> float:
        """Returns seconds until it is to be asked again. Raises nothing: what fails is this peer's alone."""
        try:
            known = self._ask()
        except _Away as error:
            return self._lose(str(error), now)
        except ReconcileError as error:
            return self._lose(scrub_text(str(error)), now)
        except Exception as error:
            log.exception("peer_raised", peer=self._settings.name)
            return self._lose(f"a bug; see the log: {type(error).__name__}", now)
        self._learn(known, now)
        return EVERY_SECONDS

    def _learn(self, known: Summary, now: float) -> None:
        if self._failures:
            log.info("peer_back", peer=self._settings.name)
        changed = {} if known is self._known else {"summary": known.document}
        self._known, self._failures = known, 0
        seen = {"reachable": True, "reason": "", "since": None, "observedAt": timestamp(now)}
        self.document = self.document | seen | changed

    def _lose(self, why: str, now: float) -> float:
        """What it said last stays, with the time at which it said so."""
        if not self._failures:
            log.warning("peer_away", peer=self._settings.name, error=why)
        self._failures += 1
        since = self.document["since"] or timestamp(now)
        self.document = self.document | {"reachable": False, "reason": why, "since": since}
        return backoff(self._failures, EVERY_SECONDS, _LONGEST_PAUSE)

    # ------------------------------------------------------------ the request

    def _ask(self) -> Summary:
        """Raises _Away, ReconcileError."""
        try:
            timeout = urllib3.Timeout(connect=_CONNECT_SECONDS, total=_TIMEOUT_SECONDS)
            with answer_to(self._opened(), "GET", self._url, self._headers(), timeout) as response:
                return self._read(response)
        except (HTTPError, AnswerTooLong, OSError) as error:
            raise _Away(_why(error)) from None

    def _opened(self) -> urllib3.PoolManager:
        if self._pool is None:
            context = self._contexts.of(self._settings.ca_file, f"{self._key}.ca_file")
            self._pool = connections(self._settings.url, context, self._key)
        return self._pool

    def _headers(self) -> Mapping[str, str]:
        # Asked so seldom, it would have closed the connection before the next time.
        said = {"Connection": "close"}
        if self._etag and self._known:
            said["If-None-Match"] = self._etag
        if place := self._settings.token_file:
            said["Authorization"] = f"Bearer {read_secret(place, f'{self._key}.token_file')}"
        return said

    def _read(self, response: urllib3.BaseHTTPResponse) -> Summary:
        if response.status == 304 and self._etag and self._known:
            return self._known
        if response.status != 200:
            raise _Away(_refusal(response.status, self._key))
        found = _decoded(read_answer(response, _MOST_BYTES))
        etag = response.headers.get("ETag", "")
        self._etag = etag if len(etag) <= _MOST_TEXT and etag.isascii() and etag.isprintable() else ""
        return found


class _Contexts:
    """One for all peers with the same certificates: each takes milliseconds and memory."""

    def __init__(self) -> None:
        self._known: dict[Path | None, ssl.SSLContext] = {}
        self._lock = threading.Lock()

    def of(self, ca_file: Path | None, key: str) -> ssl.SSLContext:
        """Raises Retryable."""
        with self._lock:
            if ca_file not in self._known:
                self._known[ca_file] = tls_context(ca_file, key)
            return self._known[ca_file]


def _decoded(raw: bytes) -> Summary:
    try:
        return read_summary(decoded_json(raw))
    except ValueError as error:
        raise _Away(str(error)) from None


def _refusal(status: int, key: str) -> str:
    """What a status means, and what to do."""
    match status:
        case 401:
            return f"401: it wants another login: give {key}.token_file a token of its web.auth.tokens"
        case 403:
            return f"403: its pages are not for us: set web.auth.tokens there, and {key}.token_file here"
        case 404:
            return f"404: what answers is no reconciler that has a page; check {key}.url"
        case 421:
            return f"421: it does not answer to the name in {key}.url: set web.url there to the same"
        case _ if 300 <= status < 400:
            return f"{status}: it leads elsewhere, which is not followed; check {key}.url"
        case _ if status >= 500:
            return f"{status}: it, or a proxy before it, does not work now"
    return f"{status}: it refuses the question; check {key}.url"


def _why(error: Exception) -> str:
    """In a few words; the longest texts of the libraries are cut."""
    match error:
        case NameResolutionError():
            return "DNS: its name has no address; check the URL and the resolver"
        case ProxyError():
            return (
                f"proxy: {_short(error.original_error.__cause__ or error.original_error)}; check HTTPS_PROXY, NO_PROXY"
            )
        case NewConnectionError():
            return f"no connection: {_short(error.__cause__ or error)}"
        case SSLError():
            hint = "; it answers without TLS: is it http?" if "WRONG_VERSION_NUMBER" in str(error) else ""
            return f"TLS: {_short(error)}{hint}"
        case ConnectTimeoutError():
            return f"timeout: no connection within {_CONNECT_SECONDS:.0f} s"
        case ReadTimeoutError() | TimeoutError():
            return f"timeout: no answer within {_TIMEOUT_SECONDS:.0f} s"
    return f"no answer: {_short(error)}"


def _short(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return one_line(scrub_text(str(text)[: 10 * _MOST_TEXT]))[:_MOST_TEXT]
