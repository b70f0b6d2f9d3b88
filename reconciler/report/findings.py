"""What the checks of a doctor find, of a host and of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from reconciler.errors import ReconcileError


class Level(StrEnum):
    """A warning may matter later or elsewhere; with a problem something that the config asks for does not work."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One line of the report. `fix` says what to do; it is empty when nothing is wrong.

    `target` is empty where the finding is about the machine or the whole config.
    """

    topic: str
    level: Level
    message: str
    fix: str = ""
    target: str = ""


Check = Callable[[], Iterable[CheckResult]]


def ok(topic: str, message: str) -> CheckResult:
    return CheckResult(topic, Level.OK, message)


def warning(topic: str, message: str, fix: str) -> CheckResult:
    return CheckResult(topic, Level.WARNING, message, fix)


def problem(topic: str, message: str, fix: str) -> CheckResult:
    return CheckResult(topic, Level.PROBLEM, message, fix)


def exposed(topic: str, key: str, path: Path | None) -> Iterator[CheckResult]:
    """A warning where others than its owner may read or write the file of a secret."""
    if path is not None and path.exists() and path.stat().st_mode & 0o077:
        yield warning(topic, f"{key}: other users may read or write {path}", f"chmod 600 {path}")


def raised(topic: str, error: ReconcileError) -> CheckResult:
    """Our errors say what to do next after their last semicolon."""
    message, _, fix = str(error).rpartition("; ")
    return problem(topic, message or fix, fix if message else "fix that, then run the check again")


def made(topic: str, check: Check) -> Iterator[CheckResult]:
    """What a check finds, or why it could not be performed: the others continue."""
    try:
        yield from check()
    except ReconcileError as error:
        yield raised(topic, error)
    except OSError as error:
        yield problem(topic, f"cannot be checked: {error}", "run this as the daemon's user")
    except Exception as error:
        message = f"cannot be checked: {type(error).__name__}: {error}"
        yield problem(topic, message, "this is a bug of the reconciler, please report it")
