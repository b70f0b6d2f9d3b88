"""What failed: actions, passes and the disk, remembered from pass to pass and over a restart of the daemon."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path

import structlog

from reconciler.errors import ReconcileError, Retryable
from reconciler.fault_isolation import unexpected
from reconciler.host.rollout import failures
from reconciler.model import Action, DesiredState, FailedAction, Observed, Plan, Result, Unreachable
from reconciler.model.backoff import backoff
from reconciler.model.target import Seen
from reconciler.report.history import History
from reconciler.system import files
from reconciler.system.files import replace_file

_SECONDS = 5.0
# A disk that is all but full takes an empty file.
_TRIAL = b"\0" * (64 << 10)


class DiskCheck:
    """Writes a small file into a folder, at most every few seconds, and takes it away again."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / ".writable"
        self._lock = threading.Lock()
        self._asked_at = float("-inf")
        self._fault = ""

    def fault(self) -> str:
        """Why nothing can be written there; empty when it can."""
        with self._lock:
            if time.monotonic() - self._asked_at >= _SECONDS:
                self._fault, self._asked_at = self._try(), time.monotonic()
            return self._fault

    def _try(self) -> str:
        try:
            replace_file(self._path, _TRIAL)
            self._path.unlink()
        except OSError as error:
            return f"{self._path.parent}: cannot be written: {error.strerror}"
        return ""


log = structlog.get_logger()

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0


class PassErrors:
    """Of one target, in a row."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._count = 0
        self._reported = ""

    def note(self, error: Exception) -> str:
        """Record it, and log it if it is new. Returns its text."""
        self._count += 1
        text = pass_error_text(error)
        if text == self._reported:
            return text
        self._reported = text
        if isinstance(error, ReconcileError | OSError):
            log.error("pass_failed", target=self._target, error=text, meanwhile="models keep serving")
        else:
            # A bug must not end the loop, and its traceback must be seen.
            log.exception("pass_raised", target=self._target)
        return text

    def clear(self) -> None:
        """A pass was made."""
        if self._count:
            log.info("pass_recovered", target=self._target, failed=self._count)
        self._count, self._reported = 0, ""

    @property
    def pause(self) -> float:
        """Seconds until the next try."""
        return backoff(self._count, _FIRST_PAUSE, _LONGEST_PAUSE)


def pass_error_text(error: Exception) -> str:
    """One line for people."""
    if isinstance(error, ReconcileError):
        return str(error)
    if isinstance(error, OSError):
        return files.error_text(error)
    return unexpected(error)


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

    def note(self, desired: DesiredState, seen: Seen | Unreachable, plan: Plan, results: Sequence[Result]) -> None:
        """Update the failures with these results, and delete what nothing asks for any more."""
        with self._changing:
            if isinstance(seen, Unreachable) or not (self._known or results):
                return
            found = failures.count(self._known, plan, results)
            self._replace(failures.still_wanted(found, desired, seen) if isinstance(seen, Observed) else found)

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
