"""How long to wait before something that failed is tried again: the one formula for all of it. Pure."""

from __future__ import annotations

# 2 to this power is beyond every longest pause, and no overflow.
_MOST_DOUBLINGS = 20


def backoff(failures: int, first: float, longest: float) -> float:
    """Seconds after so many failures in a row: `first` after one, then twice as many each time, up to `longest`."""
    return min(longest, first * 2.0 ** min(max(failures - 1, 0), _MOST_DOUBLINGS))
