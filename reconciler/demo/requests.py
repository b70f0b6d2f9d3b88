"""A constant stream of requests to one model, and how many of them were lost."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from typing import Any

_TOKENS = 16
_PAUSE = 0.2
# A silence of so many seconds counts as an answer that never comes.
_PATIENCE = 60.0


class Lost(Exception):
    """A request without the whole of its answer."""


def complete(connection: HTTPConnection, path: str, model: str) -> str | None:
    """The text of one completion; None for 503 with Retry-After. Raises Lost for anything else."""
    body = {"model": model, "prompt": "hello world", "max_tokens": _TOKENS, "ignore_eos": True, "temperature": 0}
    try:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        said = response.read()
        if response.status == 503 and response.headers.get("Retry-After"):
            return None
        answer: dict[str, Any] = json.loads(said)
        # vLLM ends an aborted request under status 200, too: only the whole answer counts.
        if answer["usage"]["completion_tokens"] == _TOKENS:
            return str(answer["choices"][0]["text"])
        raise Lost(f"{answer['usage']['completion_tokens']} tokens of {_TOKENS}")
    except (OSError, HTTPException) as error:
        connection.close()
        raise Lost(f"{type(error).__name__}: {error}") from None
    except (ValueError, LookupError, TypeError):
        raise Lost(f"status {response.status}: {said[:160].decode(errors='replace')}") from None


@dataclass
class Requests:
    """One client that asks without a break. Use it as a context manager: at its end every request has an outcome."""

    address: str
    path: str
    model: str
    answered: int = 0
    lost: list[str] = field(default_factory=list)
    _stopping: threading.Event = field(default_factory=threading.Event, init=False)
    _thread: threading.Thread | None = field(default=None, init=False)

    def __enter__(self) -> Requests:
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(2 * _PATIENCE)

    def __str__(self) -> str:
        return f"requests {self.answered + len(self.lost)}, lost {len(self.lost)}"

    def await_answers(self, more: int, seconds: float = 300.0) -> bool:
        """Wait for so many more outcomes. False if they do not come."""
        wanted, deadline = self.answered + len(self.lost) + more, time.monotonic() + seconds
        while self.answered + len(self.lost) < wanted:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        return True

    def _ask(self) -> None:
        connection = HTTPConnection(self.address, timeout=_PATIENCE)
        while not self._stopping.is_set():
            try:
                if complete(connection, self.path, self.model) is not None:
                    self.answered += 1
            except Lost as error:
                self.lost.append(str(error))
            self._stopping.wait(_PAUSE)
        connection.close()
