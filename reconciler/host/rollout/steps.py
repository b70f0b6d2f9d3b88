"""What one service needs done in this pass, collected while it is decided."""

from __future__ import annotations

from dataclasses import dataclass, field

from reconciler.model import Action, Reason, ReplicaId, Start, Stop

SOON = 0.2


@dataclass
class Steps:
    """`records` are written before the routes change, `processes` are touched after.

    `step` is the one line for people, `lacking` what kept a replica from starting.
    """

    records: list[Action] = field(default_factory=list)
    processes: list[Action] = field(default_factory=list)
    step: str = ""
    strategy: str = ""
    lacking: tuple[Reason, ...] = ()
    look_again_at: float | None = None

    def look(self, at: float) -> None:
        """Look again at this time, or earlier."""
        self.look_again_at = at if self.look_again_at is None else min(at, self.look_again_at)

    def say(self, step: str) -> None:
        """The first thing said is what people read."""
        self.step = self.step or step

    def started(self) -> set[ReplicaId]:
        return {action.replica for action in self.processes if isinstance(action, Start)}

    def stopped(self) -> set[ReplicaId]:
        return {action.replica for action in self.processes if isinstance(action, Stop)}
