"""How the command line asks a running daemon: HTTP over its unix socket, followed until it is over."""

from __future__ import annotations

import difflib
import http.client
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlencode

from reconciler.build import RESTART
from reconciler.errors import ReconcileError, Retryable, Terminal
from reconciler.report.convergence import convergence_of, full_name, is_moving, services
from reconciler.report.older import completed
from reconciler.report.status import Document
from reconciler.system.unix_sockets import connect, peer_uid


class UnknownService(Terminal):
    """No service has this name, or several have."""


def resolve_service(status: Document, text: str, *, gone_is_fine: bool = False) -> str:
    """`namespace/name` of a given name. `gone_is_fine`: a full name may be of a deleted service.

    Raises UnknownService, with the choices or the nearest name.
    """
    known = sorted({full_name(service) for _, service in services(status)})
    if text in known or (gone_is_fine and text.count("/") == 1):
        return text
    matches = [name for name in known if name.split("/")[1] == text]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise UnknownService(f'"{text}" names {len(matches)} services; use one of: {", ".join(matches)}')
    raise UnknownService(f'no service is named "{text[:100]}"; {_hint(text, known)}')


def _hint(text: str, known: list[str]) -> str:
    spellings = {name: name for name in known} | {name.split("/")[1]: name for name in known}
    if near := difflib.get_close_matches(text, spellings, 1, 0.6):
        return f"did you mean {spellings[near[0]]}?"
    if not known:
        return "there are no services"
    return "there are " + ", ".join(known[:10]) + (" …" if len(known) > 10 else "")


_SYNC_SECONDS = 300.0
_LEAST_SECONDS = 0.5


class NoDaemon(Retryable):
    """No daemon answers on the socket."""


class RequestRefused(ReconcileError):
    """The daemon refused the request."""


class DaemonClient:
    """One daemon. Every method raises NoDaemon, Refused, or Terminal for a wrong question."""

    def __init__(self, path: Path, timeout: float = 15.0) -> None:
        self._path = path
        self._timeout = timeout

    def status(self) -> Document:
        """Complete, also where the daemon is older than we are."""
        document = self._request("GET", "/status")
        return completed(document) if "targets" in document else document

    def history(
        self, service: str | None, limit: int, since: str | None = None, revision: str | None = None
    ) -> list[dict[str, str]]:
        """The latest entries, oldest first; `since` is a time or how long ago, `revision` its first digits."""
        given = {"service": service, "since": since, "revision": revision}
        query = {"limit": limit} | {name: value for name, value in given.items() if value}
        return cast(list[dict[str, str]], self._request("GET", f"/history?{urlencode(query)}")["entries"])

    def logs(self, service: str, lines: int) -> list[str]:
        return cast(
            list[str], self._request("GET", f"/logs?{urlencode({'service': service, 'lines': lines})}")["lines"]
        )

    def request_sync(self, timeout: float = _SYNC_SECONDS) -> int:
        """The number of passes after which the status answers this request."""
        # Git is asked first, and may be slow.
        return int(self._request("POST", "/sync", timeout=max(_LEAST_SECONDS, min(timeout, _SYNC_SECONDS)))["pass"])

    def suspend(self, service: str | None, reason: str = "", until: float | None = None) -> list[str]:
        """What is suspended now."""
        body = {"service": service, "reason": reason, "until": until}
        return cast(list[str], self._request("POST", "/suspend", body)["suspended"])

    def resume(self, service: str | None) -> list[str]:
        """What is still suspended."""
        return cast(list[str], self._request("POST", "/resume", {"service": service})["suspended"])

    def restart(self, service: str, target: str | None) -> Document:
        """Which targets replace its replicas, and the number of passes after which the status shows it."""
        return self._request("POST", "/restart", {"service": service, "target": target})

    def drain(self, reason: str = "", until: float | None = None) -> None:
        """Drain the host."""
        self._request("POST", "/drain", {"reason": reason, "until": until})

    def undrain(self) -> bool:
        """Lift that; whether the host was drained."""
        return bool(self._request("POST", "/undrain")["lifted"])

    def approve(self, hash_: str, target: str | None, reason: str = "") -> list[str]:
        """The targets that do these deletions now."""
        body = {"hash": hash_, "target": target, "reason": reason}
        return cast(list[str], self._request("POST", "/approve", body)["targets"])

    def withdraw(self, hash_: str, target: str | None, reason: str = "") -> list[str]:
        """The targets that hold again what is left of them."""
        body = {"hash": hash_, "target": target, "reason": reason}
        return cast(list[str], self._request("POST", "/withdraw", body)["targets"])

    def _request(
        self, method: str, target: str, body: Document | None = None, timeout: float | None = None
    ) -> Document:
        timeout = timeout or self._timeout
        connection = http.client.HTTPConnection("localhost")
        connection.sock = self._connect(timeout)
        try:
            data = json.dumps(body).encode() if body is not None else None
            connection.request(method, target, data, {"Content-Type": "application/json"} if data else {})
            response = connection.getresponse()
            return _understood(response.status, response.read())
        except TimeoutError:
            raise NoDaemon(f"the daemon on {self._path} did not respond in {timeout:g} s; see its log") from None
        except (OSError, http.client.HTTPException) as error:
            raise NoDaemon(f"the daemon on {self._path} closed the connection:  {error}") from None
        finally:
            connection.close()

    def _connect(self, timeout: float) -> Any:
        try:
            found = connect(self._path, timeout)
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            raise NoDaemon(
                f"the daemon is not running (nothing listens on {self._path}); start it (`systemctl start "
                "reconciler`, or `reconciler run`), or give its config with --config"
            ) from None
        except PermissionError:
            raise NoDaemon(f"{self._path} belongs to another user; run this as the daemon's user or as root") from None
        except OSError as error:
            raise NoDaemon(f"cannot reach the daemon on {self._path}: {error.strerror or error}") from None
        if os.geteuid() not in (0, owner := peer_uid(found)) and owner != 0:
            found.close()
            raise NoDaemon(f"{self._path} is held by user {owner}, which is neither you nor root; nothing was sent")
        return found


def _understood(status: int, data: bytes) -> Document:
    try:
        answer = json.loads(data)
    except ValueError:
        answer = {"error": data[:200].decode("utf-8", "replace")}
    if status == 200 and isinstance(answer, dict):
        return answer
    if status == 404 and data == b"Not Found":
        # Our own refusals are JSON.
        raise RequestRefused(f"the daemon is older than this command and does not support this; {RESTART}")
    message = str(answer.get("error") if isinstance(answer, dict) else answer)
    raise Terminal(message) if status in (400, 404) else RequestRefused(message)


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
