"""One API server over HTTPS: requests as JSON, with a deadline, a limit on rate and size, and retries that do no harm.

Not the client of the package `kubernetes`: see what that costs in `tests/bench/bench_cluster_api.py`.
"""

from __future__ import annotations

import json
import random
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlencode

import urllib3

from reconciler.cluster.api.clock import ServerClock
from reconciler.cluster.api.connection import Access, ClusterConnection, read_access, tls_context
from reconciler.cluster.api.errors import ApiError, Busy, RequestInfo, TooLarge, Unauthorized, Unreached, error_of
from reconciler.cluster.api.limiter import Limiter
from reconciler.errors import ReconcileError
from reconciler.model.backoff import backoff

APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
JSON = "application/json"

CONNECT_SECONDS = 5.0
# Ten times what etcd takes as one object, and a page of a list of large ones.
MAX_ANSWER_BYTES = 64 << 20
# What a load balancer answers while no API server is behind it.
_TURNED_AWAY = (429, 502, 503, 504)
_MOST_CONNECTIONS = 32
_PIECE = 1 << 16
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
# A watch hears nothing for long: a peer that has gone is known after half a minute.
_KEEP_ALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)
_LEAST_PART = 0.2
# A new reading of the same credentials so soon would find the same.
_REREAD_AFTER = 5.0


@dataclass(frozen=True, slots=True)
class ApiRequest:
    """One request. `repeatable`: doing it twice does what doing it once does."""

    method: str
    path: str
    asked: RequestInfo
    query: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    content_type: str = JSON
    repeatable: bool = True


class _Untrusted(Unreached):
    """One side does not accept the other's certificate."""


@dataclass(slots=True)
class _Link:
    """The access in use, and its connections: those for requests, and those that watches hold for long."""

    access: Access
    read_at: float
    requests: urllib3.PoolManager
    watches: urllib3.PoolManager

    @property
    def is_due(self) -> bool:
        valid = self.access.valid_seconds
        return valid is not None and time.monotonic() >= self.read_at + valid


class Transport:
    """Requests to one API server. For any number of threads."""

    def __init__(self, connection: ClusterConnection) -> None:
        """Reads the connection's files; sends nothing. Raises SettingsError."""
        self._connection = connection
        self._limiter = Limiter(connection.qps, connection.burst)
        self._lock = threading.Lock()
        self.clock = ServerClock()
        self._link = _connect(read_access(connection), None)

    @property
    def server(self) -> str:
        return self._link.access.server

    def close(self) -> None:
        self._link.requests.clear()
        self._link.watches.clear()

    def send(self, request: ApiRequest) -> Any:
        """The JSON that is answered. Raises ApiError."""
        return _document(self.send_raw(request), self._place(request.asked))

    def send_raw(self, request: ApiRequest) -> bytes:
        """The body that is answered. Raises ApiError."""
        ends, failures, refused = time.monotonic() + self._connection.timeout, 0, False
        while True:
            self._limiter.wait()
            # What waited for its turn has not used its time.
            if not failures:
                ends = time.monotonic() + self._connection.timeout
            link = self._current()
            try:
                return self._once(link, request, ends)
            except (Unauthorized, _Untrusted) as error:
                if refused or not self._reread(link):
                    raise self._explained(error, link) from None
                refused = True
            except (Busy, Unreached) as error:
                failures += 1
                pause = _pause(error, failures)
                # Another try needs time of its own.
                left = ends - time.monotonic() - pause
                if not _may_repeat(error, request) or left < self._connection.timeout * _LEAST_PART:
                    raise
                time.sleep(pause)

    @contextmanager
    def stream(self, request: ApiRequest, read_seconds: float) -> Iterator[urllib3.BaseHTTPResponse]:
        """An answer that goes on; silence of `read_seconds` ends it. Raises ApiError, and then urllib3's HTTPError."""
        self._limiter.wait()
        link = self._current()
        timeout = urllib3.Timeout(connect=CONNECT_SECONDS, read=read_seconds)
        try:
            response = self._open(link, link.watches, request, timeout)
        except _Untrusted as error:
            self._reread(link)
            raise self._explained(error, link) from None
        try:
            if response.status != 200:
                body = _read(response, time.monotonic() + read_seconds, request.asked)
                refusal = self._error(response, body, request.asked)
                if isinstance(refusal, Unauthorized):
                    self._reread(link)
                    refusal = self._explained(refusal, link)
                raise refusal
            if not response.headers.get("Content-Type", "").startswith(JSON):
                raise Unreached(f"{self._place(request.asked)}: {_foreign(response)}")
            yield response
        finally:
            # What is left of it is not read: the connection is of no more use.
            with suppress(Exception):
                response.close()

    def _once(self, link: _Link, request: ApiRequest, ends: float) -> bytes:
        seconds = max(0.1, ends - time.monotonic())
        timeout = urllib3.Timeout(connect=min(CONNECT_SECONDS, seconds), read=seconds)
        response = self._open(link, link.requests, request, timeout)
        try:
            body = _read(response, ends, request.asked)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            response.close()
            raise Unreached(f"{self._place(request.asked)}: the answer breaks off: {_why(error)}") from None
        except ApiError:
            response.close()
            raise
        response.release_conn()
        if not 200 <= response.status < 300:
            raise self._error(response, body, request.asked)
        return body

    def _open(
        self, link: _Link, pool: urllib3.PoolManager, request: ApiRequest, timeout: urllib3.Timeout
    ) -> urllib3.BaseHTTPResponse:
        headers = {**link.access.headers, "Accept": JSON}
        body = None
        if request.body is not None:
            headers["Content-Type"] = request.content_type
            body = encode(request.body)
        url = link.access.server + request.path
        if request.query:
            url += "?" + urlencode(request.query)
        began = time.time()
        try:
            response = pool.request(
                request.method,
                url,
                body=body,
                headers=headers,
                timeout=timeout,
                retries=False,
                redirect=False,
                preload_content=False,
            )
        except urllib3.exceptions.HTTPError as error:
            raise self._unreached(error, request.asked, link) from None
        self.clock.note(began, response.headers.get("Date", ""))
        return response

    def _unreached(self, error: urllib3.exceptions.HTTPError, asked: RequestInfo, link: _Link) -> Unreached:
        reason = _cause(error)
        place = self._place(asked)
        if isinstance(reason, ssl.SSLCertVerificationError) or "ALERT" in (getattr(reason, "reason", None) or ""):
            return _Untrusted(f"{place}: {_why(reason)}", was_sent=False)
        if isinstance(reason, urllib3.exceptions.ReadTimeoutError):
            return Unreached(f"{place}: no answer in time; see whether the API server is overloaded")
        never_sent = isinstance(reason, urllib3.exceptions.NewConnectionError | urllib3.exceptions.ConnectTimeoutError)
        return Unreached(f"{place}: {_why(reason)}; see the server in {link.access.source}", was_sent=not never_sent)

    def _error(self, response: urllib3.BaseHTTPResponse, body: bytes, asked: RequestInfo) -> ApiError:
        code = response.status
        document = _status_of(response, body)
        if document is None and code in _TURNED_AWAY:
            why = f"{self._place(asked)}: what stands before the API server answers {code}"
            return Busy(why, code, _retry_after(response))
        if document is None:
            return Unreached(f"{self._place(asked)}: {_foreign(response)}", code=code)
        return error_of(asked, code, document, _retry_after(response))

    def _explained(self, error: Unauthorized | _Untrusted, link: _Link) -> ApiError:
        source = link.access.source
        if isinstance(error, Unauthorized):
            return Unauthorized(f"{error}, from {source}", code=401)
        why = f"the server's certificate is not accepted, or ours by it ({error})"
        return Unreached(f"{why}; see the CA and the client certificate in {source}", was_sent=False)

    def _place(self, asked: RequestInfo) -> str:
        return f"{asked.what}: {self.server}"

    def _current(self) -> _Link:
        link = self._link
        if link.is_due:
            try:
                self._replace(link)
            except ReconcileError:
                # Old credentials may serve for a while yet; if not, the server's answer says more than a file that
                # cannot be read just now.
                link.read_at = time.monotonic()
        return self._link

    def _reread(self, used: _Link) -> bool:
        """Read the credentials again, which were refused. False: that was done just now. Raises Unreached."""
        try:
            return self._replace(used, _REREAD_AFTER)
        except ReconcileError as error:
            raise Unreached(str(error), was_sent=False) from None

    def _replace(self, used: _Link, least_age: float = 0.0) -> bool:
        with self._lock:
            if self._link is not used:
                return True
            if time.monotonic() < used.read_at + least_age:
                return False
            self._link = _connect(read_access(self._connection), used)
            return True


def _connect(access: Access, old: _Link | None) -> _Link:
    """Connections for an access; those that are open stay, unless what secures them has changed."""
    now = time.monotonic()
    if old is not None and (old.access.tls, old.access.proxy) == (access.tls, access.proxy):
        return _Link(access, now, old.requests, old.watches)
    context = tls_context(access.tls)
    return _Link(access, now, _pool(access, context), _pool(access, context))


def _pool(access: Access, context: ssl.SSLContext) -> urllib3.PoolManager:
    """The connections of the Kubernetes client: it knows proxies, those of the environment as well, and keep-alive.

    TLS is our own: the client takes keys only as files.
    """
    # It reads every model of every kind: half a second that only a cluster should cost.
    from kubernetes.client import Configuration
    from kubernetes.client.rest import RESTClientObject

    configuration = Configuration(host=access.server)
    if access.proxy is not None:
        configuration.proxy = access.proxy
        configuration.no_proxy = None
    configuration.connection_pool_maxsize = _MOST_CONNECTIONS
    configuration.socket_options = [*urllib3.connection.HTTPConnection.default_socket_options, *_KEEP_ALIVE]
    configuration.tls_server_name = access.tls.server_name
    pool: urllib3.PoolManager = RESTClientObject(configuration).pool_manager
    for name in ("ca_certs", "cert_file", "key_file", "ca_cert_data", "cert_reqs"):
        pool.connection_pool_kw.pop(name, None)
    pool.connection_pool_kw["ssl_context"] = context
    return pool


# What JSON leaves as it is and YAML, as which the server reads what is applied, does not: other controls, other ends of
# lines, and halves of characters, which JSON would write as escapes that YAML refuses.
_NOT_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


def encode(body: Any) -> bytes:
    """A body that is read alike as JSON and as YAML."""
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    if not text.isascii():
        text = _NOT_YAML.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    elif "\x7f" in text:
        text = text.replace("\x7f", "\\u007f")
    return text.encode("utf-8", "replace")


def _read(response: urllib3.BaseHTTPResponse, ends: float, asked: RequestInfo) -> bytes:
    """The whole body, within the deadline and the limit on its size."""
    pieces: list[bytes] = []
    size = 0
    while piece := response.read1(_PIECE):
        pieces.append(piece)
        size += len(piece)
        if size > MAX_ANSWER_BYTES:
            raise TooLarge(f"{asked.what}: the answer is larger than {MAX_ANSWER_BYTES >> 20} MiB")
        if time.monotonic() > ends:
            raise Unreached(f"{asked.what}: the answer takes too long")
    return b"".join(pieces)


def _document(body: bytes, place: str) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        raise Unreached(f"{place}: the answer is not JSON; see whether a proxy stands between") from None


def _status_of(response: urllib3.BaseHTTPResponse, body: bytes) -> Mapping[str, Any] | None:
    """The `Status` of an API server; {} for its router's plain 404; None for what comes from something else."""
    if response.headers.get("Content-Type", "").startswith("text/plain"):
        return {} if response.status == 404 else {"message": body[:200].decode("utf-8", "replace").strip()}
    with suppress(ValueError):
        document = json.loads(body)
        if isinstance(document, dict) and document.get("kind") == "Status":
            return document
    return None


def _foreign(response: urllib3.BaseHTTPResponse) -> str:
    kind = response.headers.get("Content-Type", "nothing").partition(";")[0]
    if 300 <= response.status < 400:
        return "answers with a redirect, as no API server does; write the address that it leads to, or see the proxy"
    return f"answers {response.status} with {kind}, which is not from an API server; see the address, and any proxy"


def _retry_after(response: urllib3.BaseHTTPResponse) -> float | None:
    text = response.headers.get("Retry-After", "")
    if text.isdecimal():
        return float(text)
    with suppress(ValueError, TypeError):
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    return None


def _may_repeat(error: Busy | Unreached, request: ApiRequest) -> bool:
    """Is a second try harmless? What was turned away with 429, or never sent, was not done."""
    if isinstance(error, Busy):
        return request.repeatable or error.code == 429
    return not error.was_sent or (request.repeatable and error.code == 0)


def _pause(error: Busy | Unreached, failures: int) -> float:
    if isinstance(error, Busy) and error.retry_after is not None:
        # Not all who were turned away together come back together.
        return error.retry_after * random.uniform(1.0, 1.25)  # noqa: S311
    return backoff(failures, _FIRST_PAUSE, _LONGEST_PAUSE) * random.uniform(0.5, 1.0)  # noqa: S311


def _cause(error: BaseException) -> BaseException:
    """What urllib3 wraps: in a MaxRetryError's or a ProxyError's reason, in what an SSLError is made of."""
    while True:
        given = error.args[0] if error.args and isinstance(error, urllib3.exceptions.SSLError) else None
        inner = given or getattr(error, "original_error", None) or getattr(error, "reason", None)
        if not isinstance(inner, BaseException):
            return error
        error = inner


_NOISE = re.compile(r"<[^>]* at 0x[0-9a-f]+>:? ?|\(_ssl\.c:\d+\)|\w*Connection(?:Pool)?\([^)]*\): ?")


def _why(error: BaseException) -> str:
    """One line, without the objects that urllib3 names in its messages."""
    text = str(getattr(error, "verify_message", None) or getattr(error, "strerror", None) or error)
    return _NOISE.sub("", text).strip() or type(error).__name__
