"""What a doctor finds of a forge: is it there, is the token accepted, what may it do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from reconciler.errors import ReconcileError, Retryable
from reconciler.forge.http import ForgeRefused, Http, LoginRefused, Request
from reconciler.report.findings import CheckResult, ok, problem, raised, warning

TOPIC = "forge"


@dataclass(frozen=True, slots=True)
class Right:
    """Something that the token must be allowed, and a request that changes nothing and is refused to who may not.

    `what` completes "the token may ...". `is_needed`: always; else only with some settings.
    """

    what: str
    probe: Request
    fix: str
    is_needed: bool


def check_rights(http: Http, name: str, repository: Request, rights: Iterable[Right]) -> tuple[CheckResult, ...]:
    """`repository`: a request that reads it. When that fails, nothing else is asked."""
    try:
        http.ask(repository)
    except ForgeRefused as error:
        fix = "check forge.repository, and that the token's user may see it"
        return (problem(TOPIC, str(error), fix) if error.status == 404 else raised(TOPIC, error),)
    except Retryable as error:
        return (raised(TOPIC, error),)
    return (ok(TOPIC, f"{name} answers, and knows the token"), *_rights(http, rights))


def _rights(http: Http, rights: Iterable[Right]) -> Iterator[CheckResult]:
    for right in rights:
        try:
            http.ask(right.probe)
            yield ok(TOPIC, f"the token may {right.what}")
        except LoginRefused as error:
            yield lacking(right, str(error).rpartition("; ")[0])
        except ReconcileError as error:
            yield warning(TOPIC, f"whether the token may {right.what} cannot be told: {error}", right.fix)


def lacking(right: Right, why: str) -> CheckResult:
    message = f"the token may not {right.what}: {why}"
    return problem(TOPIC, message, right.fix) if right.is_needed else warning(TOPIC, message, right.fix)
