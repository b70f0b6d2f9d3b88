"""Notice a push to a local repository at once, instead of at the next interval."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from watchdog.events import (
    EVENT_TYPE_CLOSED_NO_WRITE,
    EVENT_TYPE_MODIFIED,
    EVENT_TYPE_OPENED,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer

from reconciler.config.settings import SourceSettings
from reconciler.errors import ReconcileError, Retryable
from reconciler.formats.git_address import parse_address
from reconciler.source.local_repository import git_folder

# A push renames several files; one wake is enough for those that follow each other this closely.
_SETTLE = 0.02
# Reading a reference, as our own poll does, causes these.
_READING = frozenset((EVENT_TYPE_OPENED, EVENT_TYPE_CLOSED_NO_WRITE))
_FILES = frozenset(("HEAD", "packed-refs", "refs", "reftable", ".git"))


class LocalWatch:
    """Calls `wake` from a thread of its own soon after any reference of a local repository changed.

    It may wake for nothing and does not say what changed: poll to know. For a remote repository it does nothing. It
    follows a repository that is removed and made again, as long as its parent folder stays.
    """

    def __init__(self, settings: SourceSettings, wake: Callable[[], None]) -> None:
        """`wake` must not raise and should return at once."""
        self._path = _local_path(settings)
        self._wake = wake
        self._changed = threading.Event()
        self._stopping = threading.Event()
        self._observer: Any = None
        self._armed: frozenset[tuple[str, bool, int]] = frozenset()
        self._thread = threading.Thread(target=self._pump, name="source-watch", daemon=True)

    def start(self) -> None:
        """Begin to watch. Raises Retryable when the kernel grants no more watches; polling still works then."""
        if self._path is None:
            return
        try:
            self._arm()
        except OSError as error:
            self._stop_observer()
            limits = "Raise the limits fs.inotify.max_user_instances and max_user_watches"
            what = f"{self._path} cannot be watched: {error.strerror}; it is polled only. {limits}"
            raise Retryable(what) from None
        self._thread.start()

    def close(self) -> None:
        """Stop watching. Does nothing when it never began."""
        self._stopping.set()
        self._changed.set()
        if self._thread.is_alive():
            self._thread.join()
        self._stop_observer()

    def _pump(self) -> None:
        while True:
            self._changed.wait()
            if self._stopping.wait(_SETTLE):
                return
            # Cleared before we call: what happens from here on wakes again.
            self._changed.clear()
            if self._stopping.is_set():
                # What was cleared may have been the call to end.
                return
            with contextlib.suppress(OSError):
                self._arm()
            self._wake()

    def _arm(self) -> None:
        """Watch what is there now. A new observer, because watches on removed folders do not come back to life."""
        places = self._places()
        if places == self._armed:
            return
        self._stop_observer()
        self._observer = Observer()
        for folder, recursive, _ in sorted(places):
            self._observer.schedule(_Handler(self._path, self._changed), folder, recursive=recursive)
        self._observer.start()
        self._armed = places
        if self._places() != places:
            self._changed.set()

    def _places(self) -> frozenset[tuple[str, bool, int]]:
        assert self._path is not None  # noqa: S101
        folder = git_folder(self._path)
        wanted = [(self._path.parent, False), (folder or self._path, False)]
        if folder is not None:
            wanted += [(folder / "refs", True), (folder / "reftable", True)]
        places = []
        for path, recursive in wanted:
            with contextlib.suppress(OSError):
                places.append((os.path.realpath(path), recursive, path.stat().st_ino))
        return frozenset(places)

    def _stop_observer(self) -> None:
        observer, self._observer, self._armed = self._observer, None, frozenset()
        if observer is not None and observer.is_alive():
            observer.stop()
            observer.join()


class _Handler(FileSystemEventHandler):
    def __init__(self, repository: Path | None, changed: threading.Event) -> None:
        self._repository = str(repository)
        self._changed = changed

    def on_any_event(self, event: FileSystemEvent) -> None:
        # A folder is modified by every lock file in it; what matters has an event of its own.
        if event.event_type in _READING or (event.is_directory and event.event_type == EVENT_TYPE_MODIFIED):
            return
        if self._matters(event.src_path) or self._matters(event.dest_path):
            self._changed.set()

    def _matters(self, path: bytes | str) -> bool:
        text = os.fsdecode(path)
        if not text or text.endswith(".lock"):
            return False
        parts = text.split("/")
        return parts[-1] in _FILES or "refs" in parts or "reftable" in parts or text == self._repository


def _local_path(settings: SourceSettings) -> Path | None:
    try:
        path = parse_address(settings.url).path
    except ReconcileError:
        return None
    return path and Path(os.path.realpath(path))
