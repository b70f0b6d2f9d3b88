"""The API server's clock, as far as its answers tell of it."""

from __future__ import annotations

from email.utils import formatdate

from hypothesis import given
from hypothesis import strategies as st

from reconciler.cluster.api.clock import ServerClock, certain_skew

TIMES = st.floats(1.7e9, 1.8e9)


@given(TIMES, st.floats(-1e6, 1e6), st.floats(0, 20), st.floats(0, 1))
def test_certain_skew_is_never_more_than_the_real_one(began: float, skew: float, took: float, part: float):
    ended = began + took
    found = certain_skew(began, ended, formatdate(began + part * took + skew, usegmt=True))

    assert found is not None
    assert abs(found) <= abs(skew) + 1e-5
    assert found * skew >= 0
    assert abs(found) >= abs(skew) - took - 1.001


def test_clock_follows_a_server_that_is_an_hour_ahead(monkeypatch):
    monkeypatch.setattr("time.time", lambda: 1.75e9)
    clock = ServerClock()
    clock.note(1.75e9, formatdate(1.75e9 + 3600, usegmt=True))
    assert clock.now() == 1.75e9 + 3600


def test_clock_is_ours_where_the_server_tells_none_or_nearly_ours(monkeypatch):
    monkeypatch.setattr("time.time", lambda: 1.75e9)
    for date in ("", "Mon", "tomorrow", formatdate(1.75e9 + 1.5, usegmt=True)):
        clock = ServerClock()
        clock.note(1.75e9, date)
        assert clock.now() == 1.75e9
