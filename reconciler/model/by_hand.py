"""A request of a person: who, when, why, until when."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True, slots=True)
class ByHand:
    """Who asked for it, when, why and until when; each is empty if unknown."""

    by: str = ""
    at: float | None = None
    reason: str = ""
    until: float | None = None

    def is_over(self, now: float) -> bool:
        """Has the time come at which it ends by itself?"""
        return self.until is not None and now >= self.until

    def __str__(self) -> str:
        """`by alice until 2026-11-30T08:00:00Z: replacing a disk`, or `by hand`."""
        until = f" until {_moment(self.until)}" if self.until is not None else ""
        return f"by {self.by or 'hand'}{until}{': ' + self.reason if self.reason else ''}"


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
