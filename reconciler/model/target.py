"""The port between the loop and a place that runs services."""

from __future__ import annotations

from typing import Protocol

from reconciler.model import Desired, Observed, TargetAction, Unreachable


class Target(Protocol):
    """A place that runs services."""

    name: str

    def observe(self, wanted: tuple[Desired, ...]) -> Observed | Unreachable:
        """What is there now. `wanted` tells which specs' preflight verdicts to look up; it never writes."""

    def perform(self, action: TargetAction) -> None:
        """Do one action, idempotently. Raises Retryable or Terminal."""

    def close(self) -> None:
        """Let go of handles and threads. What serves keeps serving."""
