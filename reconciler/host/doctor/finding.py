"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from reconciler.errors import ReconcileError


class Level(StrEnum):
    """A warning may matter later or elsewhere; with a problem something that the config asks for does not work."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One line of the report. `fix` says what to do; it is empty when nothing is wrong."""

    topic: str
    level: Level
    message: str
    fix: str = ""


def ok(topic: str, message: str) -> CheckResult:
    return CheckResult(topic, Level.OK, message)


def warning(topic: str, message: str, fix: str) -> CheckResult:
    return CheckResult(topic, Level.WARNING, message, fix)


def problem(topic: str, message: str, fix: str) -> CheckResult:
    return CheckResult(topic, Level.PROBLEM, message, fix)


def raised(topic: str, error: ReconcileError) -> CheckResult:
    """Our errors say what to do next after their last semicolon."""
    message, _, fix = str(error).rpartition("; ")
    return problem(topic, message or fix, fix if message else "fix that, then run the check again")
