"""The one formula for waiting before another try."""

from __future__ import annotations

import pytest

from reconciler.model.backoff import backoff


@pytest.mark.parametrize(
    ("failures", "seconds"), [(0, 5.0), (1, 5.0), (2, 10.0), (3, 20.0), (6, 160.0), (7, 300.0), (10_000, 300.0)]
)
def test_backoff_after_failures_doubles_up_to_the_longest(failures: int, seconds: float) -> None:
    assert backoff(failures, 5.0, 300.0) == seconds
