"""Does the proxy still serve, and can its configuration still be changed? Checked in the background, by a real request.

An Envoy that was stopped, or hangs, takes connections and answers none; one whose admin socket is gone serves on.
"""

from __future__ import annotations

import http.client
import math
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing

import structlog

from reconciler.errors import Retryable
from reconciler.host.routing.envoy import EnvoyProxy
from reconciler.model import ProxyBreak
from reconciler.system.files import error_text, is_out_of_resources

_log = structlog.get_logger()

_INTERVAL = 5.0
_TIMEOUT = 3.0
_HUNG_AFTER = 20.0
# One whose admin socket answers may take so many times longer.
_WHILE_TOLD = 10.0
# The longest time between two looks that counts: more than that, and we slept ourselves.
_LONGEST_STEP = 10.0


class ProxyWatch:
    """One thread. `is_alone` says whether nothing else on this host answered since a moment, or could have.

    Where nothing answers, the host was paused, and the proxy is not to blame. `take_refused` gets what it counted
    and which process of it did.
    """

    def __init__(
        self,
        proxy: EnvoyProxy,
        wake: Callable[[], None],
        note_answer: Callable[[float], None],
        is_alone: Callable[[float], bool],
        take_refused: Callable[[str, Mapping[str, int], int], None],
    ) -> None:
        self._proxy = proxy
        self._wake = wake
        self._note_answer = note_answer
        self._is_alone = is_alone
        self._take_refused = take_refused
        self._looked_at = time.monotonic()
        self._silent = self._deaf = 0.0
        self._process: object = None
        self._closed = threading.Event()
        self.found = ProxyBreak.NONE

    def start(self) -> None:
        threading.Thread(target=self._run, name="proxy watch", daemon=True).start()

    def close(self) -> None:
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.wait(1.0 if self._silent or self._deaf else _INTERVAL):
            try:
                found = self.look()
            except OSError as error:
                # We could not ask, which says nothing about the proxy.
                _log.warning("proxy_watch_failed", reason=error_text(error))
                continue
            except Exception:
                # A thread that dies of a bug would leave the proxy unwatched, in silence.
                _log.exception("proxy_watch_raised")
                continue
            if found is not self.found:
                self.found = found
                self._wake()

    def look(self) -> ProxyBreak:
        """Probe once, and return what all probes so far mean."""
        before, now = self._looked_at, time.monotonic()
        step, self._looked_at = min(now - before, _LONGEST_STEP), now
        if (process := self._proxy.find_process()) != self._process or process is None:
            self._process, self._silent, self._deaf = process, 0.0, 0.0
            return ProxyBreak.NONE
        answers = does_answer(*self._proxy.address)
        if answers:
            self._note_answer(time.monotonic())
            self._silent = 0.0
            self._deaf = 0.0 if self._is_configurable() else self._deaf + step
        elif not self._is_alone(before):
            # A proxy whose configuration can be changed is alive: clients may keep it so busy that our request has to
            # wait, and one that does not listen yet may still be reconfigured.
            slowed = _WHILE_TOLD if answers is False else math.inf
            self._silent += step / slowed if self._is_configurable() else step
        if self._silent >= _HUNG_AFTER:
            return ProxyBreak.HUNG
        return ProxyBreak.DEAF if self._deaf >= _INTERVAL else ProxyBreak.NONE

    def _is_configurable(self) -> bool:
        """Not ready is an answer too."""
        try:
            self._proxy.is_live()
            refused = self._proxy.refused()
            self._take_refused(str(self._process), refused.by_service, refused.closed_paths)
        except Retryable as error:
            if is_out_of_resources(error.__cause__):
                raise error.__cause__ from None
            return False
        return True


def does_answer(host: str, port: int) -> bool | None:
    """Whether a request gets a response; None where nothing listens. Raises OSError where we cannot send one."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    with closing(http.client.HTTPConnection(reachable, port, timeout=_TIMEOUT)) as connection:
        try:
            connection.request("GET", "/", headers={"Host": "proxy.invalid", "Connection": "close"})
            connection.getresponse()
        except TimeoutError:
            return False
        except ConnectionRefusedError:
            return None
        except (OSError, http.client.HTTPException) as error:
            if is_out_of_resources(error):
                raise
            # Too many connections, say: the other side closed this one, so it is not asleep.
            return True
    return True
