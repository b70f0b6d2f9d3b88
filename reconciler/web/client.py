"""The command line's client of a running daemon: HTTP over its unix socket."""

from __future__ import annotations

import http.client
import json
import os
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlencode

from reconciler.build import RESTART
from reconciler.errors import ReconcileError, Retryable, Terminal
from reconciler.report.older import completed
from reconciler.report.status import Document
from reconciler.system.unix_sockets import connect, peer_uid

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
