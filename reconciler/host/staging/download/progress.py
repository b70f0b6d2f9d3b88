"""How far it is, for the daemon to read: a small file, written at most once a second."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from reconciler.host.staging.state import FAILED, REFUSED, RUNNING, STAGED, State, read_state, write_state
from reconciler.model import ReasonCode

_EVERY = 1.0
_STALLED_AFTER = 600.0


class DownloadProgress:
    """Counts bytes. `measure` returns them instead, where a library does the reading."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        before = read_state(folder)
        self._failures = before.failures if before else 0
        self._lock = threading.Lock()
        self._done, self._total = (before.done, before.total) if before else (0, None)
        self._gained = False
        self._written: tuple[int, int | None] | None = None
        self._moved_at = time.monotonic()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self.measure: Callable[[], int] | None = None

    def begin(self, done: int, total: int | None) -> None:
        """So much is there already."""
        self._done, self._total = done, total

    def watch(self) -> None:
        """From now on report the progress, and end the process if nothing comes:

        a source may list its files without end.
        """
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
        self._thread.start()

    def follow(self, folder: Path) -> None:
        """What comes now are the files in there, of unknown size."""
        before, self._total = self._done, None
        self.measure = lambda: before + sum(path.lstat().st_size for path in folder.rglob("*"))

    def add(self, count: int) -> None:
        with self._lock:
            self._done += count
            self._gained = self._gained or count > 0

    def staged(self, content: str) -> None:
        """All is there, in the folder of this name."""
        self._stop()
        write_state(self._folder, State(STAGED, self._done, self._done, content=content, at=time.time()))

    def failed(self, code: ReasonCode, message: str, refused: bool) -> None:
        self._stop()
        failures = 1 if self._gained else self._failures + 1
        state = State(REFUSED if refused else FAILED, self._done, self._total, failures, time.time(), "", code, message)
        # A disk that does not even take this: then the daemon sees that the program ended.
        with contextlib.suppress(OSError):
            write_state(self._folder, state)

    def _run(self) -> None:
        while not self._over.wait(_EVERY):
            self._measure()
            if (self._done, self._total) != self._written:
                self._moved_at = time.monotonic()
                self._write()
            elif time.monotonic() - self._moved_at > _STALLED_AFTER:
                # Some library waits for a server that sends nothing any more; it cannot be cancelled.
                self.failed(ReasonCode.SOURCE_FAILED, f"no byte came for {_STALLED_AFTER:g} s", refused=False)
                os._exit(1)

    def _measure(self) -> None:
        if self.measure is not None:
            # What it looks at is at work.
            with contextlib.suppress(OSError):
                self.add(self.measure() - self._done)

    def _write(self) -> None:
        self._written = (self._done, self._total)
        with contextlib.suppress(OSError):
            write_state(self._folder, State(RUNNING, self._done, self._total, self._failures, time.time()))

    def _stop(self) -> None:
        self._over.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        self._measure()
