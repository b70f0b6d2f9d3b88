"""The first token of a new version, through the Service or its URL: what says Ready may still not answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import urllib3

from reconciler.engines.arguments import model_names
from reconciler.engines.probe import why_speechless
from reconciler.engines.replica_connection import ProbeResponse
from reconciler.model import Desired, ServiceId

_PARALLEL = 2
_AGAIN = 2.0
_SECONDS = 30.0
_MOST_BYTES = 1 << 20
_Key = tuple[ServiceId, str, int]


class FirstTokens:
    """Asks services for one token, in threads of its own. What was asked once is asked again until it answers."""

    def __init__(self, template: str, wake: Callable[[], None]) -> None:
        """`template` is a URL with `{name}` and `{namespace}`. `wake` is called when an answer is there."""
        self._template = template
        self._wake = wake
        self._pool = ThreadPoolExecutor(_PARALLEL, thread_name_prefix="first token")
        self._http = urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(_SECONDS))
        self._lock = threading.Lock()
        # Why there is no token, and when that was found; empty: there is one.
        self._known: dict[_Key, tuple[str, float]] = {}
        self._asking: set[_Key] = set()

    def look_up(self, services: Iterable[tuple[Desired, int]]) -> dict[ServiceId, str]:
        """Why each of these services answers no token, with its generation; empty: it does. Asks what is not known."""
        found: dict[ServiceId, str] = {}
        wanted = {(one.id, one.digest, generation): one for one, generation in services}
        with self._lock:
            self._known = {key: known for key, known in self._known.items() if key in wanted}
            for key, desired in wanted.items():
                why, at = self._known.get(key, ("it was not asked for a token yet", 0.0))
                found[desired.id] = why
                if why and key not in self._asking and time.monotonic() - at > _AGAIN:
                    self._asking.add(key)
                    self._pool.submit(self._ask, key, desired)
        return found

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _ask(self, key: _Key, desired: Desired) -> None:
        why = self._why(desired)
        with self._lock:
            self._asking.discard(key)
            self._known[key] = (why, time.monotonic())
        self._wake()

    def _why(self, desired: Desired) -> str:
        base = self._template.format(name=desired.id.name, namespace=desired.id.namespace).rstrip("/")
        names = model_names(desired.spec) if desired.spec else ()

        def post(path: str, body: bytes) -> ProbeResponse:
            headers = {"Content-Type": "application/json"}
            answer = self._http.request(
                "POST", f"{base}{path}", body=body, headers=headers, redirect=False, preload_content=False
            )
            try:
                return ProbeResponse(answer.status, answer.read(_MOST_BYTES))
            finally:
                answer.release_conn()

        try:
            return why_speechless(post, names[0] if names else desired.id.name)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            return f"{base}: {type(error).__name__}: {error}"[:300]
