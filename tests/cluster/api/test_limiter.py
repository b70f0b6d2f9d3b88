"""The token bucket, by a clock of the test."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.cluster.api.limiter import Limiter


@given(
    st.floats(0.5, 1000),
    st.integers(0, 50),
    st.lists(st.floats(0, 10), min_size=1, max_size=60),
)
def test_no_window_has_more_requests_than_its_rate_and_burst(qps: float, burst: int, gaps: list[float]) -> None:
    limiter = Limiter(qps, burst)
    now = time.monotonic() + 1e6
    sent = []
    for gap in gaps:
        now += gap / qps
        sent.append(max(now, now + limiter._take(now)))
    for first in range(len(sent)):
        for last in range(first, len(sent)):
            window = sent[last] - sent[first]
            assert last - first + 1 <= max(1, burst) + window * qps + 1e-3


def test_burst_is_sent_at_once_and_then_the_rate() -> None:
    limiter = Limiter(10, 3)
    now = time.monotonic() + 10
    # Times are floats: what is due now may be due in a billionth of a second.
    assert [limiter._take(now) <= 1e-6 for _ in range(3)] == [True, True, True]
    assert limiter._take(now) == pytest.approx(0.1)
    assert limiter._take(now) == pytest.approx(0.2)
    assert limiter._take(now + 10) <= 1e-6


def test_without_a_rate_nothing_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    limiter = Limiter(0, 0)
    for _ in range(10_000):
        limiter.wait()
    assert not slept
