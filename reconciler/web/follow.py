"""Following a running daemon: a sync until it is over, logs until interrupted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from reconciler.errors import Terminal
from reconciler.report.convergence import convergence_of, full_name, is_moving, services
from reconciler.report.status import Document
from reconciler.web.client import DaemonClient, NoDaemon, RequestRefused

_WINDOW = 1000


def follow_status(client: DaemonClient, seconds: float = 1.0) -> Iterator[Document | str]:
    """The status again and again, or why it cannot be read: the daemon may be restarted meanwhile. Never ends."""
    while True:
        time.sleep(seconds)
        try:
            yield client.status()
        except (NoDaemon, RequestRefused) as error:
            yield str(error)


def follow_sync(client: DaemonClient, timeout: float, progress: Callable[[Document], None]) -> Document:
    """Request a sync and watch until it converged or failed, or the timeout; returns the last status.

    A daemon that is restarted or reloads its config meanwhile gets the request again. Raises NoDaemon where there is
    none to begin with, or none any more at the end.
    """
    deadline = time.monotonic() + timeout
    enough, asked = client.request_sync(timeout), ""
    while True:
        try:
            status = client.status()
            if asked not in ("", status["daemon"]["startedAt"]):
                enough, status = client.request_sync(deadline - time.monotonic()), client.status()
            asked = status["daemon"]["startedAt"]
        except NoDaemon:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.5)
            continue
        progress(status)
        done = status["daemon"]["passes"] >= enough and convergence_of(status).settled
        if done or time.monotonic() >= deadline:
            return status
        time.sleep(0.2)


def follow_restart(
    client: DaemonClient, asked: Document, timeout: float, progress: Callable[[Document], None]
) -> list[Document]:
    """Watch until the restarted service is in sync or stuck, or the timeout; its documents on its targets.

    The daemon may be restarted meanwhile: the restart is on record. Raises NoDaemon where there is none at the end.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            status = client.status()
        except NoDaemon:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.5)
            continue
        progress(status)
        mine = [(target, one) for target, one in services(status) if full_name(one) == asked["service"]]
        mine = [(target, one) for target, one in mine if target["name"] in asked["targets"]]
        done = status["daemon"]["passes"] >= asked["pass"] and not any(is_moving(one, target) for target, one in mine)
        if done or time.monotonic() >= deadline:
            return [one for _, one in mine]
        time.sleep(0.2)


def follow_logs(client: DaemonClient, service: str, lines: int) -> Iterator[str]:
    """The last lines, then every new one, over restarts of the daemon too. Never ends by itself."""
    seen = client.logs(service, max(lines, _WINDOW))
    yield from seen[-lines:]
    while True:
        time.sleep(0.5)
        try:
            now = client.logs(service, _WINDOW)
        except (NoDaemon, RequestRefused, Terminal):
            # Away, or just back and not yet aware of its services.
            continue
        yield from new_lines(seen, now)
        seen = now


def new_lines(before: Sequence[str], now: Sequence[str]) -> Sequence[str]:
    """What `now` has after the longest end of `before` that it begins with: both are windows on one log."""
    for start in range(max(0, len(before) - len(now)), len(before) + 1):
        if list(before[start:]) == list(now[: len(before) - start]):
            return now[len(before) - start :]
    return now
