"""The port between the loop and a place that runs services."""

from __future__ import annotations

from typing import Protocol

from reconciler.model import Desired, Observed, TargetAction, Unreachable


class Target(Protocol):
    """A place that runs services."""

    name: str

    def observe(self, desired: tuple[Desired, ...]) -> Observed | Unreachable:
        """What is there now, and what of it concerns what is wanted. Writes nothing."""

    def preflight(self, desired: tuple[Desired, ...], observed: Observed) -> Observed | Unreachable:
        """The same, with what is known of the wanted specs before anything of them starts. Asks nothing by itself."""

    def perform(self, action: TargetAction) -> None:
        """Do one action, idempotently. Raises Retryable or Terminal."""

    def close(self) -> None:
        """Let go of handles and threads. What serves keeps serving."""
