"""Actions that failed, remembered from pass to pass, and over a restart of the daemon."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import structlog

from reconciler.errors import Retryable
from reconciler.host.rollout import failures
from reconciler.model import Action, DesiredState, FailedAction, Observed, Plan, Result, Unreachable
from reconciler.report.history import History

log = structlog.get_logger()


class FailureLog:
    """What failed on one target. A disk that does not take it costs only that a new daemon tries once more."""

    def __init__(self, target: str, history: History) -> None:
        self._target = target
        self._history = history
        # `reconciler resume` comes from another thread.
        self._changing = threading.Lock()
        known = history.failures(target)
        self._known: failures.Failures = {(one.action, one.subject, one.services): one for one in known}

    def now(self) -> tuple[FailedAction, ...]:
        """All that failed and has not succeeded since."""
        return tuple(self._known.values())

    def waiting(self, plan: Plan) -> tuple[Action, ...]:
        """Actions of this plan that are not due yet."""
        return failures.waiting(self._known, plan)

    def note(self, desired: DesiredState, seen: Observed | Unreachable, plan: Plan, results: Sequence[Result]) -> None:
        """Update the failures with these results, and delete what nothing asks for any more."""
        with self._changing:
            if isinstance(seen, Observed) and (self._known or results):
                self._replace(failures.still_wanted(failures.count(self._known, plan, results), desired, seen))

    def forget(self, service: str | None) -> set[str]:
        """Try everything of a service again now; None: of all. Returns the services that this concerns."""
        with self._changing:
            known = self._known.items()
            kept = {key: one for key, one in known if service and service not in map(str, one.services)}
            gone = {str(each) for key, one in known if key not in kept for each in one.services}
            self._replace(kept)
            return gone

    def due(self, plan: Plan) -> float | None:
        """Seconds after this plan when the first action that failed is to be tried again; None: none failed."""
        held = failures.dues(self._known, plan)
        return min(held) - plan.at if held else None

    def _replace(self, found: failures.Failures) -> None:
        if found == self._known:
            return
        self._known = found
        try:
            self._history.keep_failures(self._target, self.now())
        except Retryable as error:
            log.warning("failures_not_recorded", target=self._target, reason=str(error))
