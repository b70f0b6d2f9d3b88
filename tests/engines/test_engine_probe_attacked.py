"""Replicas that mean harm: what they answer may be endless, slow or nonsense. The daemon asks all others as well."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Iterable, Iterator

import pytest

from reconciler.engines.probe import Probe, count_requests, read_vitals

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
GAUGES = "vllm:num_requests_running 1\nvllm:num_requests_waiting 0\n"


@contextlib.contextmanager
def saying(parts: Iterable[bytes], pause: float = 0.0) -> Iterator[int]:
    """A server that answers each request so, without an end. Only one of them."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(10)
    over = threading.Event()

    def serve() -> None:
        with contextlib.suppress(OSError), listener.accept()[0] as connection:
            connection.recv(1 << 16)
            for part in parts:
                connection.sendall(part)
                if over.wait(pause):
                    return

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        over.set()
        listener.close()
        thread.join(10)


def endless(begin: bytes, unit: bytes) -> Iterator[bytes]:
    return itertools.chain([begin], itertools.repeat(unit))


@pytest.mark.parametrize(
    "parts",
    [
        endless(b"HTTP/1.1 2", b"0"),
        endless(OK, b"x"),
        endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        endless(CHUNKED + b"1", b"0"),
        endless(CHUNKED + b"0\r\n", b"a: b\r\n"),
        endless(OK + b"Content-Length: 999999999999\r\n\r\n", b"x"),
    ],
    ids=["status", "header", "continue", "chunk-size", "trailers", "body"],
)
def test_probe_of_a_replica_that_drips_ends_at_its_deadline(parts: Iterable[bytes]) -> None:
    began = time.monotonic()
    with saying(parts, pause=0.02) as port:
        assert Probe(scrape_timeout=0.2).scrape(port, "/metrics") is None
    # Not a measure of speed: without a deadline it takes forever.
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "parts",
    [
        endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000),
        endless(CHUNKED + b"0\r\n", b"a: b\r\n" * 10_000),
        endless(OK + b"Content-Length: 999999999999\r\n\r\n", b"x" * 100_000),
    ],
    ids=["continue", "trailers", "body"],
)
def test_probe_of_a_replica_that_floods_ends_at_its_limit(parts: Iterable[bytes]) -> None:
    with saying(parts) as port:
        assert Probe(scrape_timeout=60).scrape(port, "/metrics") is None


def test_answer_that_ends_too_early_is_unknown_and_never_zero() -> None:
    body = GAUGES.encode()
    with saying([OK + b"Content-Length: 9999\r\n\r\n" + body]) as port:
        assert Probe(timeout=5).in_flight(port) is None


@pytest.mark.parametrize("number", ["e", "+", "1e999", ".", "-", "1.2.3", "9" * 5000, "Inf"])
def test_metrics_with_a_number_that_is_none_are_unknown(number: str) -> None:
    metrics = f"vllm:num_requests_running {number}\nvllm:num_requests_waiting 0\n"
    assert count_requests(metrics) is None
    assert read_vitals(metrics) is None


@pytest.mark.parametrize(
    "line",
    [
        "vllm:engine_sleep_state{" + 'sleep_state="awake"' * 400_000,
        "vllm:num_requests_swapped{" + "}" * 1_000_000,
        "vllm:num_requests_running " + "1" * 1_000_000 + "x",
        "vllm:engine_sleep_state{" + 'sleep_state="awake"} 0.0 ' * 300_000,
    ],
    ids=["awake", "braces", "digits", "samples"],
)
def test_metrics_of_long_lines_are_read_once(line: str) -> None:
    # Where it is read once for each of its parts, this does not end, and the daemon stands still meanwhile.
    assert read_vitals(GAUGES + line + "\n")


def test_answers_nested_without_end_are_no_answers() -> None:
    deep = b"[" * 200_000
    answer = OK + b"Content-Length: %d\r\n\r\n%s" % (len(deep), deep)
    with saying([answer]) as port:
        assert not Probe().is_paused(port)
    with saying([answer]) as port:
        assert "did not answer with a list" in Probe()._unlisted(port, "m", None)
