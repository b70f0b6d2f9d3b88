"""What one replica says of itself: does it answer a real request, is it healthy, what is it working on."""

from __future__ import annotations

import http.client
import json
import re
import socket
import ssl
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

from reconciler.model import Address

_MOST_BYTES = 8 << 20
_MOST_BYTES_OF_A_LOOK = 1 << 16
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})\b")
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
_AWAKE = re.compile(r'^vllm:engine_sleep_state\{[^}]*sleep_state="awake"[^}]*\} ([0-9.]+)$', re.MULTILINE)
_SAMPLE = re.compile(r"^([a-zA-Z_:]+)(?:\{.*\})? ([0-9.eE+-]+|NaN)(?: \d+)?$")
# What is tried until the server knows the route: most models generate, others only embed, classify or pool.
_REQUESTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/v1/completions", {"prompt": "a", "max_tokens": 1}),
    ("/v1/embeddings", {"input": "a"}),
    ("/classify", {"input": "a"}),
    ("/pooling", {"input": "a"}),
)


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """`healthy` is what /health said: True for 200, False for 503, None when nobody could tell."""

    ready: bool
    healthy: bool | None
    detail: str


@dataclass(frozen=True, slots=True)
class Vitals:
    """What an engine's metrics say: how many requests it has, and counters that move when it does anything.

    `tells`: they count tokens, so that one that does not move has done nothing.
    """

    busy: int
    counters: tuple[float, ...]
    asleep: bool = False
    tells: bool = True


@dataclass(frozen=True, slots=True)
class Answer:
    """What a replica answered; `kind` is the type of its content."""

    status: int
    body: bytes
    kind: str = ""


class Stranger(Exception):
    """Somebody else than the replica listens at its address; says who."""


Guard = Callable[[], Collection[int]]
"""Which sockets listen at the replica's address, all of them its own. Raises Stranger."""


class _NoAnswer(Exception):
    """Nobody answered, or not in time; says how."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Asks replicas on this host. Every request ends within its time, whatever the other side does.

    `tls`: they end TLS themselves. With a `guard` nothing is sent to anybody but the replica.
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
        except _NoAnswer as error:
            problem = str(error)
        return ProbeResult(not problem, healthy, problem or "answers")

    def health(self, address: Address) -> bool | None:
        """Only what /health says: cheap, but it stays 200 while a server drains or hangs."""
        return self._health(address)[0]

    def in_flight(self, address: Address) -> int | None:
        """Requests that run or wait in all engines of one replica; None is unknown, never zero."""
        try:
            answer = self._ask(address, "GET", "/metrics")
        except _NoAnswer:
            return None
        return count_requests(answer.body.decode(errors="replace")) if answer.status == 200 else None

    def scrape(self, address: Address, path: str) -> Answer | None:
        """What it says of itself at this path, without a key; None when it does not answer."""
        try:
            return self._ask(address, "GET", path, timeout=self.scrape_timeout)
        except _NoAnswer:
            return None

    def vitals(self, address: Address) -> Vitals | None:
        """What its metrics say; None where there are none, or no answer."""
        try:
            answer = self._ask(address, "GET", "/metrics")
        except _NoAnswer:
            return None
        return read_vitals(answer.body.decode(errors="replace")) if answer.status == 200 else None

    def answers(self, address: Address, model: str, api_key: str | None, timeout: float) -> bool:
        """Whether anything comes back when it is asked for one token. What it says does not matter."""
        for path, request in _REQUESTS:
            body = json.dumps({"model": model, **request}).encode()
            try:
                if self._ask(address, "POST", path, body, api_key, timeout).status not in _NOT_HERE:
                    return True
            except _NoAnswer:
                return False
        return True

    def is_paused(self, address: Address) -> bool:
        """Whether somebody paused its scheduler by vLLM's own means."""
        try:
            answer = self._ask(address, "GET", "/is_paused")
            return answer.status == 200 and json.loads(answer.body).get("is_paused") is True
        except (_NoAnswer, ValueError, AttributeError):
            return False

    def _health(self, address: Address) -> tuple[bool | None, str]:
        try:
            status = self._look(address, "/health")
        except _NoAnswer as error:
            return None, str(error)
        if status == 200:
            return True, "healthy"
        return (False if status == 503 else None), f"/health answered {status}"

    def _unlisted(self, address: Address, model: str, api_key: str | None) -> str:
        answer = self._ask(address, "GET", "/v1/models", api_key=api_key)
        if answer.status != 200:
            return f"/v1/models answered {answer.status}{_message(answer)}"
        try:
            names = [str(item["id"]) for item in json.loads(answer.body)["data"]]
        except (ValueError, KeyError, TypeError):
            return "/v1/models did not answer with a list of models"
        return "" if model in names else f"/v1/models lists {', '.join(names) or 'nothing'}, not {model}"

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
        with _explained(address, path, self.timeout):
            with _connected(address, self.timeout, self.tls, self.guard) as connection:
                connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
                found = _STATUS.match(_read_head(connection, time.monotonic() + self.timeout))
            if found is None:
                raise http.client.BadStatusLine("it is no answer in HTTP")
            return int(found[1])

    def _ask(
        self,
        address: Address,
        method: str,
        path: str,
        body: bytes | None = None,
        api_key: str | None = None,
        timeout: float | None = None,
    ) -> Answer:
        """Raises _NoAnswer."""
        seconds = timeout or self.timeout
        headers = {"Connection": "close", "Content-Type": "application/json"}
        if api_key:
            headers["Authorization"] = f"Bearer {api_key}"
        with (
            _explained(address, path, seconds),
            closing(_Connection(address, seconds, self.tls, self.guard)) as connection,
        ):
            connection.request(method, path, body, headers)
            return _read(connection, time.monotonic() + seconds)


@contextmanager
def _explained(address: Address, path: str, seconds: float) -> Iterator[None]:
    """What goes wrong on the way becomes _NoAnswer."""
    try:
        yield
    except (ConnectionRefusedError, FileNotFoundError):
        raise _NoAnswer(f"nothing listens on {_named(address)} yet") from None
    except TimeoutError:
        raise _NoAnswer(f"{path} did not answer within {seconds:g} s") from None
    except Stranger as error:
        raise _NoAnswer(str(error)) from None
    except (OSError, http.client.HTTPException) as error:
        raise _NoAnswer(f"{path} did not answer: {error or type(error).__name__}") from None


@contextmanager
def _connected(address: Address, seconds: float, tls: bool, guard: Guard | None) -> Iterator[socket.socket]:
    with _connect_guarded(address, seconds, guard) as plain:
        if not tls:
            yield plain
            return
        with _any_certificate().wrap_socket(plain) as wrapped:
            yield wrapped


def _connect_guarded(address: Address, seconds: float, guard: Guard | None) -> socket.socket:
    """Raises OSError, or Stranger: who listened before and after is who took the connection.

    Where nothing listens nobody is asked: another process may take a connection without listening (RFC 793, 3.4).
    """
    before = guard() if guard else ()
    if guard and not before:
        raise ConnectionRefusedError
    connection = _connect(address, seconds)
    try:
        if guard and guard() != before:
            raise Stranger(f"{_named(address)} changed hands just now")
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
        _allow_until(deadline, connection)
        part = connection.recv(1 << 12)
        if not part:
            break
        found += part
    return found


def _allow_until(deadline: float, connection: socket.socket) -> None:
    """A socket's timeout starts anew with every byte, so it is set to what is left. Raises TimeoutError."""
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


def _read(connection: http.client.HTTPConnection, deadline: float) -> Answer:
    """The whole answer. Raises TimeoutError."""
    sock = connection.sock
    response = connection.getresponse()
    parts: list[bytes] = []
    while True:
        _allow_until(deadline, sock)
        part = response.read1(1 << 16)
        if not part:
            return Answer(response.status, b"".join(parts), response.getheader("content-type", ""))
        parts.append(part)
        if sum(map(len, parts)) > _MOST_BYTES:
            raise http.client.HTTPException(f"more than {_MOST_BYTES >> 20} MiB")


def _has_result(body: bytes) -> bool:
    """A generated choice that did not end as an abort, or some pooled data: HTTP 200 alone proves nothing."""
    try:
        answer = json.loads(body)
        results = answer.get("choices") or answer.get("data")
        return bool(results) and results[0].get("finish_reason") not in ("abort", "error")
    except (ValueError, AttributeError, LookupError, TypeError):
        return False


def _message(answer: Answer) -> str:
    try:
        said = json.loads(answer.body)
        error = said.get("error", said)
        return f": {str(error.get('message', error) if isinstance(error, dict) else error)[:200]}"
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
    if not running or len(running) != len(waiting) or any(value != value for value in (*running, *waiting)):
        return None
    return round(sum(running) + sum(waiting))


def read_vitals(metrics: str) -> Vitals | None:
    """None without the gauges of vLLM."""
    busy = count_requests(metrics)
    if busy is None:
        return None
    lines = (line for line in metrics.splitlines() if line.startswith(_COUNTERS))
    counters = tuple(float(match[2]) for match in map(_SAMPLE.match, lines) if match and match[1] in _COUNTERS)
    awake = [float(found[1]) for found in _AWAKE.finditer(metrics)]
    return Vitals(busy, counters, asleep=0.0 in awake, tells=_TOKENS in metrics)


# ---------------------------------------------------------------- the log of a failed start

_PREFIX = re.compile(r"^\([\w .-]+ pid=\d+\) ?|^(?:ERROR|CRITICAL) \d\d-\d\d [\d:]+ \[[^\]]*\] ?")
_RAISED = re.compile(r"^(?:[A-Za-z_][\w.]*\.)?[A-Z]\w*(?:Error|Exception|Exit|Interrupt)(?:: .*)?$|^[\w.]+: error: .*$")
_ELSEWHERE = re.compile(r"See (?:root cause|stack trace|the stack trace)|KeyboardInterrupt|SystemExit|CancelledError")
_VALIDATION = re.compile(r"validation errors? for")


def fatal_reason(log: Sequence[str]) -> str | None:
    """The line of a failed start's log that a person needs; None when there is none. `log` is its end, line by line."""
    lines = [_bare(line) for line in log]
    for at in range(len(lines) - 1, -1, -1):
        if not _RAISED.match(lines[at]) or _ELSEWHERE.search(lines[at]):
            continue
        if _VALIDATION.search(lines[at]):
            return _first_problem(lines[at + 1 :]) or lines[at]
        return _tidy(lines[at])
    return None


def _bare(line: str) -> str:
    """A line without what vLLM's logger puts in front of it."""
    before = None
    while before != line:
        before, line = line, _PREFIX.sub("", line)
    return line.rstrip()


def _first_problem(lines: Sequence[str]) -> str | None:
    """pydantic puts what is wrong into the lines after the exception's own."""
    for line in lines:
        if line.startswith("  ") and "For further information" not in line:
            return _tidy(re.sub(r" \[type=.*", "", line.strip()).removeprefix("Value error, "))
    return None


def _tidy(text: str) -> str:
    """Without the module of the exception, and not longer than a person reads."""
    text = re.sub(r"^(?:[a-z_]\w*\.)+(?=[A-Z])", "", text)
    return text if len(text) <= 400 else text[:400] + "…"
