"""Where every action of a plan is performed: records of the daemon here, all else by the target."""

from __future__ import annotations

from dataclasses import dataclass

from reconciler.loop.quarantines import QuarantineLog
from reconciler.model import Action, NoteFailure, Promote, Reject
from reconciler.model.target import Target


@dataclass(frozen=True, slots=True)
class Performer:
    """Performs actions on one target."""

    target: Target
    quarantines: QuarantineLog

    def perform(self, action: Action) -> None:
        """Do one action, idempotently. Raises Retryable or Terminal."""
        match action:
            case Reject():
                self.quarantines.reject(action.quarantine)
            case NoteFailure():
                """Its result is what is kept, by the log of failures."""
            case Promote():
                self.target.perform(action)
                if action.promoted.replicas:
                    self.quarantines.lift(action.service)
            case _:
                self.target.perform(action)
