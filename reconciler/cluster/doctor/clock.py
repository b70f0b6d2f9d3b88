"""The API server's clock beside this machine's."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from reconciler.cluster.api.client import Client
from reconciler.cluster.api.clock import certain_skew
from reconciler.cluster.api.errors import RequestInfo
from reconciler.cluster.api.transport import ApiRequest
from reconciler.report.findings import CheckResult, ok, warning

_MOST_SKEW: Final = 2.0
_MOST_SECONDS: Final = 10.0


def check_clock(client: Client) -> Iterator[CheckResult]:
    """The difference that is certain: the server's `Date` has whole seconds, and its answer takes time."""
    request = ApiRequest("GET", "/version", RequestInfo("get", "the server's clock"))
    began = time.time()
    with client.transport.stream(request, _MOST_SECONDS) as response:
        ended, date = time.time(), response.headers.get("Date", "")
    found = certain_skew(began, ended, date)
    if found is None:
        yield ok("clock", "the API server does not say its time")
        return
    skew = abs(found)
    if skew < _MOST_SKEW:
        yield ok("clock", f"the API server's differs from this machine's by less than {_MOST_SKEW:.0f} s")
        return
    which = "behind" if found > 0 else "ahead of"
    fix = "have NTP set both: certificates, tokens and times in the status go by them"
    yield warning("clock", f"this machine's clock is {skew:.0f} s {which} the API server's", fix)
