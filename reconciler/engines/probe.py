"""Probes of one replica: does it answer a real request, is it healthy, how busy is it."""

from __future__ import annotations

import http.client
import io
import json
import math
import re
import socket
import ssl
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

from reconciler.model import Address
from reconciler.system.files import is_out_of_resources

# Metrics of a replica with many engines are large; what else it says is not.
_MOST_BYTES, _MOST_BYTES_OF_METRICS = 1 << 20, 8 << 20
_MOST_BYTES_OF_A_LOOK = 1 << 16
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})\b")
_LONGEST_DETAIL = 200
_SENDABLE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_NOT_HERE = frozenset({404, 405, 501})
_GAUGES = ("vllm:num_requests_running", "vllm:num_requests_waiting")
_TOKENS = "vllm:generation_tokens_total"
# They move only when the engine itself has done a step; what clients give up moves none of them.
_COUNTERS = (
    *_GAUGES,
    _TOKENS,
    "vllm:prompt_tokens_total",
    "vllm:iteration_tokens_total_count",
    "vllm:num_preemptions_total",
    "vllm:kv_cache_usage_perc",
)
_SLEEP = "vllm:engine_sleep_state"
# Found in time that grows with the line, whatever stands in it: an engine's code may come with its model.
_SAMPLE = re.compile(r"^([a-zA-Z_:]+)(?:\{.*\})? ([+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|NaN)(?: \d+)?$")
# What is tried until the server knows the route: most models generate, others only embed, classify or pool.
_REQUESTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/v1/completions", {"prompt": "a", "max_tokens": 1}),
    ("/v1/embeddings", {"input": "a"}),
    ("/classify", {"input": "a"}),
    ("/pooling", {"input": "a"}),
)


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """`healthy` is the result of /health: True for 200, False for 503, None when unknown."""

    ready: bool
    healthy: bool | None
    detail: str


@dataclass(frozen=True, slots=True)
class Vitals:
    """An engine's metrics: how many requests it has, and counters that move when it does anything.

    `tells`: they count tokens, so that one that does not move has done nothing.
    """

    busy: int
    counters: tuple[float, ...]
    asleep: bool = False
    tells: bool = True


@dataclass(frozen=True, slots=True)
class ProbeResponse:
    """What a replica answered; `kind` is the type of its content."""

    status: int
    body: bytes
    kind: str = ""


class ForeignListener(Exception):
    """Another process than the replica listens at its address; names it."""


Guard = Callable[[], Collection[int]]
"""Which sockets listen at the replica's address, all of them its own. Raises Stranger."""


class NoResponse(Exception):
    """No response, or not in time; says how."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Probes replicas on this host. Every request ends within its time, whatever the other side does.

    `tls`: they end TLS themselves. With a `guard` requests are sent only to the replica.
    """

    timeout: float = 2.0
    completion_timeout: float = 30.0
    scrape_timeout: float = 8.0
    tls: bool = False
    guard: Guard | None = None

    def check(self, address: Address, model: str, api_key: str | None = None) -> ProbeResult:
        """Ready means: /health is 200, the model list has `model`, and one real token comes back."""
        healthy, detail = self._health(address)
        if not healthy:
            return ProbeResult(False, healthy, detail)
        try:
            problem = self._unlisted(address, model, api_key) or self._speechless(address, model, api_key)
        except NoResponse as error:
            problem = str(error)
        return ProbeResult(not problem, healthy, problem or "answers")

    def health(self, address: Address) -> bool | None:
        """Only the result of /health: cheap, but it stays 200 while a server drains or hangs."""
        return self._health(address)[0]

    def in_flight(self, address: Address) -> int | None:
        """Requests that run or wait in all engines of one replica; None is unknown, never zero."""
        try:
            answer = self._ask(address, "GET", "/metrics", most=_MOST_BYTES_OF_METRICS)
        except NoResponse:
            return None
        return count_requests(answer.body.decode(errors="replace")) if answer.status == 200 else None

    def scrape(self, address: Address, path: str) -> ProbeResponse | None:
        """The response at this path, without a key; None if there is none."""
        try:
            return self._ask(address, "GET", path, timeout=self.scrape_timeout, most=_MOST_BYTES_OF_METRICS)
        except NoResponse:
            return None

    def vitals(self, address: Address) -> Vitals | None:
        """Its metrics; None if there are none, or no response."""
        try:
            answer = self._ask(address, "GET", "/metrics", most=_MOST_BYTES_OF_METRICS)
        except NoResponse:
            return None
        return read_vitals(answer.body.decode(errors="replace")) if answer.status == 200 else None

    def answers(self, address: Address, model: str, api_key: str | None, timeout: float) -> bool:
        """Whether a request for one token gets any response. Its content does not matter."""
        for path, request in _REQUESTS:
            body = json.dumps({"model": model, **request}).encode()
            try:
                if self._ask(address, "POST", path, body, api_key, timeout).status not in _NOT_HERE:
                    return True
            except NoResponse:
                return False
        return True

    def is_paused(self, address: Address) -> bool:
        """Is its scheduler paused by vLLM's own means?"""
        try:
            answer = self._ask(address, "GET", "/is_paused")
            return answer.status == 200 and _from_json(answer.body).get("is_paused") is True
        except (NoResponse, ValueError, AttributeError):
            return False

    def _health(self, address: Address) -> tuple[bool | None, str]:
        try:
            status = self._look(address, "/health")
        except NoResponse as error:
            return None, str(error)
        if status == 200:
            return True, "healthy"
        return (False if status == 503 else None), f"/health answered {status}"

    def _unlisted(self, address: Address, model: str, api_key: str | None) -> str:
        answer = self._ask(address, "GET", "/v1/models", api_key=api_key)
        if answer.status != 200:
            return f"/v1/models answered {answer.status}{_message(answer)}"
        try:
            names = [str(item["id"]) for item in _from_json(answer.body)["data"]]
        except (ValueError, KeyError, TypeError):
            return "/v1/models did not answer with a list of models"
        listed = ", ".join(names)[:_LONGEST_DETAIL] or "nothing"
        return "" if model in names else f"/v1/models lists {listed}, not {model}"

    def _speechless(self, address: Address, model: str, api_key: str | None) -> str:
        for path, request in _REQUESTS:
            body = json.dumps({"model": model, **request}).encode()
            answer = self._ask(address, "POST", path, body, api_key, self.completion_timeout)
            if answer.status in _NOT_HERE:
                continue
            if answer.status != 200:
                return f"{path} answered {answer.status}{_message(answer)}"
            return "" if _has_result(answer.body) else f"{path} answered without a result"
        # A model that only transcribes, say: the list of models is the best proof there is.
        return ""

    def _look(self, address: Address, path: str) -> int:
        """The status of an answer: every replica is asked all the time, and this costs a fifth of what `_ask` does."""
        with explained(address, path, self.timeout):
            with connected(address, self.timeout, self.tls, self.guard) as connection:
                connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
                found = _STATUS.match(_read_head(connection, time.monotonic() + self.timeout))
            if found is None:
                raise http.client.BadStatusLine("the response is not HTTP")
            return int(found[1])

    def _ask(
        self,
        address: Address,
        method: str,
        path: str,
        body: bytes | None = None,
        api_key: str | None = None,
        timeout: float | None = None,
        most: int = _MOST_BYTES,
    ) -> ProbeResponse:
        """Raises NoAnswer."""
        seconds = timeout or self.timeout
        headers = {"Connection": "close", "Content-Type": "application/json"}
        if api_key:
            _check_key(api_key)
            headers["Authorization"] = f"Bearer {api_key}"
        with (
            explained(address, path, seconds),
            closing(_Connection(address, seconds, self.tls, self.guard)) as connection,
        ):
            connection.request(method, path, body, headers)
            return _read(_Incoming(connection.sock, time.monotonic() + seconds, most))


def _check_key(key: str) -> None:
    """Any client fails in the same way. Raises NoAnswer, without the key: the HTTP library's error shows it."""
    if not _SENDABLE.fullmatch(key):
        text = (
            "the engine's API key cannot be sent by any client: a header allows no line end and only Latin-1 characters"
        )
        raise NoResponse(f"{text}; is it a line end that `echo` put behind it?")


@contextmanager
def explained(address: Address, path: str, seconds: float) -> Iterator[None]:
    """What goes wrong on the way becomes NoAnswer."""
    try:
        yield
    except (ConnectionRefusedError, FileNotFoundError):
        raise NoResponse(f"nothing listens on {_named(address)} yet") from None
    except TimeoutError:
        raise NoResponse(f"{path} did not answer within {seconds:g} s") from None
    except ForeignListener as error:
        raise NoResponse(str(error)) from None
    except (OSError, UnicodeError, http.client.HTTPException) as error:
        if is_out_of_resources(error):
            raise
        raise NoResponse(f"{path} did not answer: {error or type(error).__name__}") from None


@contextmanager
def connected(address: Address, seconds: float, tls: bool, guard: Guard | None) -> Iterator[socket.socket]:
    with _connect_guarded(address, seconds, guard) as plain:
        if not tls:
            yield plain
            return
        with _any_certificate().wrap_socket(plain) as wrapped:
            yield wrapped


def _connect_guarded(address: Address, seconds: float, guard: Guard | None) -> socket.socket:
    """Raises OSError, or Stranger: who listened before and after is who took the connection.

    Where nothing listens no request is sent: another process may take a connection without listening (RFC 793, 3.4).
    """
    before = guard() if guard else ()
    if guard and not before:
        raise ConnectionRefusedError
    connection = _connect(address, seconds)
    try:
        if guard and guard() != before:
            raise ForeignListener(f"{_named(address)} changed hands just now")
    except BaseException:
        connection.close()
        raise
    return connection


def _connect(address: Address, seconds: float) -> socket.socket:
    """Raises OSError."""
    if isinstance(address, int):
        return socket.create_connection(("127.0.0.1", address), seconds)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(seconds)
    try:
        connection.connect(address)
    except BaseException:
        connection.close()
        raise
    return connection


def _named(address: Address) -> str:
    return f"port {address}" if isinstance(address, int) else f"the socket {address}"


def _read_head(connection: socket.socket, deadline: float) -> bytes:
    """An answer up to its body, and what came with that. Raises TimeoutError."""
    found = b""
    while b"\r\n\r\n" not in found and len(found) < _MOST_BYTES_OF_A_LOOK:
        allow_until(deadline, connection)
        part = connection.recv(1 << 12)
        if not part:
            break
        found += part
    return found


def allow_until(deadline: float, connection: socket.socket) -> None:
    """A socket's timeout restarts with every byte, so it is set to what is left. Raises TimeoutError."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    connection.settimeout(left)


class _Connection(http.client.HTTPConnection):
    """To an address of this host, with TLS or without."""

    def __init__(self, address: Address, seconds: float, tls: bool, guard: Guard | None) -> None:
        super().__init__("127.0.0.1", timeout=seconds)
        self._guard = guard
        self._address = address
        self._tls = tls

    def connect(self) -> None:
        plain = _connect_guarded(self._address, float(self.timeout or 0), self._guard)
        self.sock = _any_certificate().wrap_socket(plain) if self._tls else plain


@cache
def _any_certificate() -> ssl.SSLContext:
    """A replica listens for this host alone, and its certificate is for its clients' name of it."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class _Incoming(io.RawIOBase):
    """A response of a replica:

    up to a deadline, and of limited size. http.client does not limit headers or trailers.
    """

    def __init__(self, connection: socket.socket, deadline: float, most: int) -> None:
        self._connection = connection
        self._deadline = deadline
        self._most = self._left = most

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Raises TimeoutError."""
        allow_until(self._deadline, self._connection)
        count = self._connection.recv_into(buffer)
        self._left -= count
        if self._left < 0:
            raise http.client.HTTPException(f"more than {self._most >> 20} MiB")
        return count


def _read(incoming: _Incoming) -> ProbeResponse:
    """The whole answer. Raises TimeoutError."""
    with closing(http.client.HTTPResponse(incoming)) as response:  # type: ignore[arg-type]
        response.begin()
        # In pieces: a length that is announced is not yet a reason to have room for it.
        body = b"".join(iter(lambda: response.read1(1 << 16), b""))
        if response.length:
            raise http.client.IncompleteRead(body, response.length)
        return ProbeResponse(response.status, body, response.getheader("content-type", ""))


def _from_json(body: bytes) -> Any:
    """Raises ValueError."""
    try:
        return json.loads(body)
    except RecursionError:
        raise ValueError("lists in lists without end") from None


def _has_result(body: bytes) -> bool:
    """A generated choice that did not end as an abort, or some pooled data: HTTP 200 alone proves nothing."""
    try:
        answer = _from_json(body)
        results = answer.get("choices") or answer.get("data")
        return bool(results) and results[0].get("finish_reason") not in ("abort", "error")
    except (ValueError, AttributeError, LookupError, TypeError):
        return False


def _message(answer: ProbeResponse) -> str:
    try:
        document = _from_json(answer.body)
        error = document.get("error", document)
        return f": {str(error.get('message', error) if isinstance(error, dict) else error)[:_LONGEST_DETAIL]}"
    except (ValueError, AttributeError):
        return ""


def count_requests(metrics: str) -> int | None:
    """Running and waiting requests, summed over engines; None unless both gauges are there for all of them."""
    totals: dict[str, list[float]] = {gauge: [] for gauge in _GAUGES}
    for line in metrics.splitlines():
        match = _SAMPLE.match(line) if line.startswith(_GAUGES) else None
        if match and match[1] in totals:
            totals[match[1]].append(float(match[2]))
    running, waiting = totals.values()
    if not running or len(running) != len(waiting) or not all(map(math.isfinite, (*running, *waiting))):
        return None
    return round(sum(running) + sum(waiting))


def read_vitals(metrics: str) -> Vitals | None:
    """None without the gauges of vLLM."""
    busy = count_requests(metrics)
    if busy is None:
        return None
    lines = (line for line in metrics.splitlines() if line.startswith(_COUNTERS))
    counters = tuple(float(match[2]) for match in map(_SAMPLE.match, lines) if match and match[1] in _COUNTERS)
    return Vitals(busy, counters, asleep=any(map(_is_asleep, metrics.splitlines())), tells=_TOKENS in metrics)


def _is_asleep(line: str) -> bool:
    """Does this line of the metrics say so?"""
    if not line.startswith(_SLEEP) or 'sleep_state="awake"' not in line:
        return False
    found = _SAMPLE.match(line)
    return found is not None and found[1] == _SLEEP and float(found[2]) == 0
