"""What a doctor finds of a forge: is it there, is the token accepted, what may it do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from reconciler.config.forge import ForgeSettings
from reconciler.errors import ReconcileError, Retryable
from reconciler.forge.http import Answer, ForgeRefused, Http, LoginRefused, Request
from reconciler.report.findings import CheckResult, Level, ok, problem, raised

TOPIC = "forge"


Setting = Literal["statuses", "pull_requests", "deployments"]
"""Of `forge`."""


@dataclass(frozen=True, slots=True)
class Right:
    """Something that the token must be allowed. `what` completes "the token may ..."; `fix` says what to tick where."""

    what: str
    fix: str
    needed_for: tuple[Setting, ...]


@dataclass(frozen=True, slots=True)
class RightFound(CheckResult):
    """Whether the token has a right."""

    needed_for: tuple[Setting, ...] = ()


def wanted(found: Iterable[CheckResult], forge: ForgeSettings) -> Iterator[CheckResult]:
    """Without the rights that nothing in the config needs."""
    used = {
        name for name in ("statuses", "pull_requests", "deployments") if getattr(forge, name) not in ("none", False)
    }
    return (one for one in found if not isinstance(one, RightFound) or used & set(one.needed_for))


def reach(http: Http, name: str, repository: Request) -> tuple[CheckResult, Answer | None]:
    """By a request that reads the repository; without its answer there is nothing else to ask."""
    try:
        answer = http.ask(repository)
    except ForgeRefused as error:
        fix = "check forge.repository, and that the token's user may see it"
        return problem(TOPIC, str(error), fix) if error.status == 404 else raised(TOPIC, error), None
    except Retryable as error:
        return raised(TOPIC, error), None
    return ok(TOPIC, f"{name} answers, and knows the token"), answer


def probe(http: Http, right: Right, request: Request) -> CheckResult:
    """By a request that changes nothing, and is refused to who lacks the right."""
    try:
        http.ask(request)
    except LoginRefused as error:
        return lacking(right, str(error).rpartition("; ")[0])
    except ReconcileError as error:
        if isinstance(error, ForgeRefused) and error.status == 404:
            # Hidden from who may not have it.
            return lacking(right, str(error))
        return untold(right, str(error))
    return given(right)


def given(right: Right) -> CheckResult:
    return RightFound(TOPIC, Level.OK, f"the token may {right.what}", needed_for=right.needed_for)


def lacking(right: Right, why: str) -> CheckResult:
    message = f"the token may not {right.what}: {why}"
    return RightFound(TOPIC, Level.PROBLEM, message, right.fix, needed_for=right.needed_for)


def untold(right: Right, why: str) -> CheckResult:
    message = f"whether the token may {right.what} cannot be told: {why}"
    return RightFound(TOPIC, Level.WARNING, message, right.fix, needed_for=right.needed_for)
