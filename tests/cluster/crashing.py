"""The daemon, killed with -9 at every boundary that it comes to on a cluster, and started again at once.

usage: crashing.py run --config FILE. A boundary lies before and after each write to the API server, and before any file
is put in place. `boundaries`, beside the config, names those where it died: see `tests/e2e/crashing.py`.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import reconciler.loop.cluster_wing  # noqa: F401 - a forked process need not read it
from reconciler.cluster import execute
from reconciler.cluster.api.transport import ApiRequest, Transport
from reconciler.model import Action, WriteInventory
from reconciler.report.actions import subject_of
from tests.e2e import crashing


def watch_calls() -> None:
    run, send = execute._run, Transport.send

    def running(action: Action, *rest: Any) -> Any:
        subject = action.reason if isinstance(action, WriteInventory) else subject_of(action)
        crashing.here.action, crashing.here.seen = f"{type(action).__name__} {subject}", Counter()
        try:
            return run(action, *rest)
        finally:
            crashing.here.action = ""

    def sending(transport: Transport, request: ApiRequest) -> Any:
        if request.method == "GET" or not crashing.here.action:
            return send(transport, request)
        crashing.boundary(f"before {request.method}")
        answer = send(transport, request)
        crashing.boundary(f"after {request.method}")
        return answer

    execute._run, Transport.send = running, sending  # type: ignore[assignment, method-assign]


if __name__ == "__main__":
    crashing.live_again_and_again(watch_calls)
