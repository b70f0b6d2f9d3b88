"""Probes of one replica: does it answer a real request, is it healthy, how busy is it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from reconciler.engines.replica_connection import Guard, NoResponse, ProbeResponse, ReplicaClient
from reconciler.model import Address

# Metrics of a replica with many engines are large; what else it says is not.
_MOST_BYTES_OF_METRICS = 8 << 20
_LONGEST_DETAIL = 200
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
            answer = self._client().ask(address, "GET", "/metrics", most=_MOST_BYTES_OF_METRICS)
        except NoResponse:
            return None
        return count_requests(answer.body.decode(errors="replace")) if answer.status == 200 else None

    def scrape(self, address: Address, path: str) -> ProbeResponse | None:
        """The response at this path, without a key; None if there is none."""
        try:
            return self._client(self.scrape_timeout).ask(address, "GET", path, most=_MOST_BYTES_OF_METRICS)
        except NoResponse:
            return None

    def vitals(self, address: Address) -> Vitals | None:
        """Its metrics; None if there are none, or no response."""
        try:
            answer = self._client().ask(address, "GET", "/metrics", most=_MOST_BYTES_OF_METRICS)
        except NoResponse:
            return None
        return read_vitals(answer.body.decode(errors="replace")) if answer.status == 200 else None

    def answers(self, address: Address, model: str, api_key: str | None, timeout: float) -> bool:
        """Whether a request for one token gets any response. Its content does not matter."""
        for path, request in _REQUESTS:
            body = json.dumps({"model": model, **request}).encode()
            try:
                if self._client(timeout).ask(address, "POST", path, body, api_key).status not in _NOT_HERE:
                    return True
            except NoResponse:
                return False
        return True

    def is_paused(self, address: Address) -> bool:
        """Is its scheduler paused by vLLM's own means?"""
        try:
            answer = self._client().ask(address, "GET", "/is_paused")
            return answer.status == 200 and _from_json(answer.body).get("is_paused") is True
        except (NoResponse, ValueError, AttributeError):
            return False

    def _health(self, address: Address) -> tuple[bool | None, str]:
        try:
            status = self._client().look(address, "/health")
        except NoResponse as error:
            return None, str(error)
        if status == 200:
            return True, "healthy"
        return (False if status == 503 else None), f"/health answered {status}"

    def _unlisted(self, address: Address, model: str, api_key: str | None) -> str:
        answer = self._client().ask(address, "GET", "/v1/models", api_key=api_key)
        if answer.status != 200:
            return f"/v1/models answered {answer.status}{_message(answer)}"
        try:
            names = [str(item["id"]) for item in _from_json(answer.body)["data"]]
        except (ValueError, KeyError, TypeError):
            return "/v1/models did not answer with a list of models"
        listed = ", ".join(names)[:_LONGEST_DETAIL] or "nothing"
        return "" if model in names else f"/v1/models lists {listed}, not {model}"

    def _speechless(self, address: Address, model: str, api_key: str | None) -> str:
        client = self._client(self.completion_timeout)
        return why_speechless(lambda path, body: client.ask(address, "POST", path, body, api_key), model)

    def _client(self, seconds: float | None = None) -> ReplicaClient:
        return ReplicaClient(seconds or self.timeout, self.tls, self.guard)


def why_speechless(post: Callable[[str, bytes], ProbeResponse], model: str) -> str:
    """Why no token of a model comes back; empty: one does. `post` sends a body to a path."""
    for path, request in _REQUESTS:
        answer = post(path, json.dumps({"model": model, **request}).encode())
        if answer.status in _NOT_HERE:
            continue
        if answer.status != 200:
            return f"{path} answered {answer.status}{_message(answer)}"
        return "" if _has_result(answer.body) else f"{path} answered without a result"
    # A model that only transcribes, say: the list of models is the best proof there is.
    return ""


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
