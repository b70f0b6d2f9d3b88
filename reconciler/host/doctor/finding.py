"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from reconciler.errors import ReconcileError


class Level(StrEnum):
    """A warning may hurt later or hurts elsewhere; with a problem something that the config asks for does not work."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One line of the answer. `fix` says what to do; it is empty where all is well."""

    topic: str
    level: Level
    says: str
    fix: str = ""


def ok(topic: str, says: str) -> CheckResult:
    return CheckResult(topic, Level.OK, says)


def warning(topic: str, says: str, fix: str) -> CheckResult:
    return CheckResult(topic, Level.WARNING, says, fix)


def problem(topic: str, says: str, fix: str) -> CheckResult:
    return CheckResult(topic, Level.PROBLEM, says, fix)


def raised(topic: str, error: ReconcileError) -> CheckResult:
    """Our errors say what to do next behind their last semicolon."""
    says, _, fix = str(error).rpartition("; ")
    return problem(topic, says or fix, fix if says else "correct that, then ask again")
