"""Errors that prevent passes over one target: reported once, retried with growing delays."""

from __future__ import annotations

import structlog

from reconciler.errors import ReconcileError
from reconciler.fault_isolation import unexpected
from reconciler.model.backoff import backoff
from reconciler.system import os_errors

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
        return os_errors.error_text(error)
    return unexpected(error)
