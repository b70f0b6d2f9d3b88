"""What GitHub's answers tell of a personal token: its scopes, if it is a classic one, and when it ends."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

from reconciler.forge.checks import TOPIC, Right, given, lacking
from reconciler.report.findings import CheckResult, ok, warning

_SOON = 14 * 86_400.0
_COMMENT = Right(
    "comment on pull requests",
    "for forge.pull_requests, take a fine-grained token or the scope `repo`",
    ("pull_requests",),
)
_RENEW = "make a new one and put it into the file of forge.token_file; no restart is needed"


def check_token(headers: Mapping[str, str]) -> Iterator[CheckResult]:
    """`headers`: of any answer to a request with the token."""
    if "x-oauth-scopes" in headers:
        yield _may_comment({scope.strip() for scope in headers["x-oauth-scopes"].split(",")})
    if (left := _left(headers.get("github-authentication-token-expiration", ""))) is not None:
        days = f"the token expires in {max(0.0, left) / 86_400:.0f} days"
        yield ok(TOPIC, days) if left > _SOON else warning(TOPIC, days, _RENEW)


def _may_comment(scopes: set[str]) -> CheckResult:
    if scopes & {"repo", "public_repo"}:
        return given(_COMMENT)
    return lacking(_COMMENT, f"its scopes are {', '.join(sorted(scopes - {''})) or 'none'}")


def _left(text: str) -> float | None:
    """Seconds; `2026-12-31 23:59:59 UTC`, or with an offset."""
    for form in ("%Y-%m-%d %H:%M:%S UTC", "%Y-%m-%d %H:%M:%S %z"):
        try:
            ends = datetime.strptime(text, form)
        except ValueError:
            continue
        return (ends if ends.tzinfo else ends.replace(tzinfo=UTC)).timestamp() - time.time()
    return None
