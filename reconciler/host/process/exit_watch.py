"""One thread that notices at once when a process ends, whether it is a child process or was reattached."""

from __future__ import annotations

import contextlib
import os
import selectors
import threading
import time
from collections.abc import Callable

import structlog

from reconciler.system import procfs
from reconciler.system.procfs import Identity

_log = structlog.get_logger()

_CHORE_SECONDS = 30.0


class ExitWatch:
    """Calls back from its own thread. `chore` is called periodically, for maintenance."""

    def __init__(self, on_exit: Callable[[Identity], None], chore: Callable[[], None]) -> None:
        self._on_exit = on_exit
        self._chore = chore
        self._selector = selectors.DefaultSelector()
        self._watched: set[Identity] = set()
        self._lock = threading.Lock()
        self._closed = False
        self._bell_out, self._bell_in = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._selector.register(self._bell_out, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="exits", daemon=True)
        self._thread.start()

    def watch(self, who: Identity) -> None:
        """Report when this process ends; at once if it has. Watching twice is watching once."""
        with self._lock:
            if self._closed or who in self._watched:
                return
            handle = _open(who)
            if handle is not None:
                self._watched.add(who)
                self._selector.register(handle, selectors.EVENT_READ, who)
        if handle is None:
            self._on_exit(who)

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
        os.write(self._bell_in, b".")
        self._thread.join(timeout=5)

    def _run(self) -> None:
        next_chore = time.monotonic() + _CHORE_SECONDS
        while not self._closed:
            for key, _ in self._selector.select(max(0.0, next_chore - time.monotonic())):
                if key.data is not None:
                    self._ended(key.fd, key.data)
            if time.monotonic() >= next_chore:
                self._safely(self._chore)
                next_chore = time.monotonic() + _CHORE_SECONDS
        self._let_go()

    def _ended(self, handle: int, who: Identity) -> None:
        with self._lock:
            self._selector.unregister(handle)
            os.close(handle)
            self._watched.discard(who)
        self._safely(lambda: self._on_exit(who))

    def _safely(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception:
            # A thread that dies would leave everything unwatched, in silence.
            _log.exception("exit_watch_raised")

    def _let_go(self) -> None:
        with self._lock:
            for key in list(self._selector.get_map().values()):
                os.close(key.fd)
            self._selector.close()
            os.close(self._bell_in)


def _open(who: Identity) -> int | None:
    with contextlib.suppress(ProcessLookupError):
        handle = os.pidfd_open(who.pid)
        try:
            stat = procfs.read_stat(who.pid)
        except OSError:
            os.close(handle)
            raise
        # Our own zombie is worth a handle too: it is readable at once.
        if stat is not None and stat.started == who.started:
            return handle
        os.close(handle)
    return None
