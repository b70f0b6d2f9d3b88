"""The port between the loop and a place that runs services."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol, TypeAlias

from reconciler.model import (
    Action,
    ClusterView,
    DesiredState,
    FailedAction,
    Holds,
    Observed,
    Plan,
    Result,
    ServiceId,
    TargetAction,
    Unreachable,
)

Seen: TypeAlias = Observed | ClusterView
"""What a host or a cluster answered."""


class Target(Protocol):
    """A place that runs services."""

    name: str

    def lock(self, wait: float = 0.0) -> None:
        """Take it over, or go on with it. Raises Terminal, naming the holder, while another process has it.

        Where daemons elect who acts, the election is waited for so many seconds; 0: until then, it is only looked at.
        """

    def perform(self, action: TargetAction) -> None:
        """Do one action, idempotently. Raises Retryable or Terminal."""

    def logs(self, service: ServiceId, lines: int) -> tuple[str, ...]:
        """The last lines of each replica of a service."""

    def runs(self, service: ServiceId) -> bool:
        """Has this service replicas here?"""

    def restart(self, service: ServiceId, who: str) -> None:
        """Have its replicas replaced by new ones. Raises Retryable."""

    def close(self) -> None:
        """Let go of handles and threads. What serves keeps serving."""


class Wing(Protocol):
    """The stages of a pass that differ by kind of target."""

    target: Target

    def observe(self, desired: DesiredState) -> Seen | Unreachable:
        """What is there now, and what is known of what is wanted. Writes nothing."""

    def plan(
        self, desired: DesiredState, observed: Seen | Unreachable, holds: Holds, failures: Collection[FailedAction]
    ) -> Plan:
        """The next steps. Pure."""

    def execute(self, plan: Plan, perform: Perform, waiting: Collection[Action]) -> tuple[Result, ...]:
        """Perform them. Those in `waiting` failed before and are not due yet. Never raises for a failed action."""

    def rehearse(self, plan: Plan) -> bool:
        """Have the target say what it would refuse of the plan, without changing anything.

        Returns whether it said anything: then the next plan shows it.
        """

    def close(self) -> None:
        """End its threads, and close the target."""


class Perform(Protocol):
    """Does one action. Raises ReconcileError."""

    def __call__(self, action: Action, /) -> None: ...
