"""Models that are not needed any more. They are many gigabytes, so no pass waits until they are deleted."""

from __future__ import annotations

import os
import shutil
import stat
import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import structlog

from reconciler.model.model_sources import is_key

_log = structlog.get_logger()
_GONE = ".gone-"
_unlink = os.unlink


def is_garbage(name: str) -> bool:
    """Is this the name of a model that is not needed any more? Other files there may belong to someone."""
    key, _, number = name.removeprefix(_GONE).rpartition("-")
    return name.startswith(_GONE) and is_key(key) and number.isdecimal()


class Garbage:
    """Garbage in a folder, recognised by its name and deleted in a thread. A later run continues with it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._is_asked = False
        self._is_closed = False
        self._thread: threading.Thread | None = None

    def take(self, path: Path) -> None:
        """Atomic for every reader: half of a model must not pass for one. Raises OSError."""
        path.rename(next(name for name in self._names(path.name) if not os.path.lexists(name)))
        self.begin()

    def begin(self) -> None:
        """Delete what is there."""
        with self._lock:
            self._is_asked = True
            if self._thread is None and not self._is_closed:
                self._thread = threading.Thread(target=self._run, name="garbage", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Leave the remaining ones to a later run."""
        self._is_closed = True

    def _names(self, name: str) -> Iterator[Path]:
        # The same model may come and go before it is deleted once.
        return (self._folder / f"{_GONE}{name}-{n}" for n in count())

    def _run(self) -> None:
        while self._is_wanted():
            for path in filter(lambda path: is_garbage(path.name), self._folder.glob(f"{_GONE}*")):
                try:
                    self._delete(path)
                except FileNotFoundError:
                    # Another process tidies up as well.
                    continue
                except OSError as error:
                    # It takes space, but does no harm.
                    _log.warning("garbage_not_deleted", path=str(path), error=error.strerror)
                except RecursionError:
                    _log.warning(
                        "garbage_not_deleted", path=str(path), error="its folders are nested too deeply; rm -r"
                    )

    def _is_wanted(self) -> bool:
        with self._lock:
            goes_on, self._is_asked = self._is_asked and not self._is_closed, False
            if not goes_on:
                self._thread = None
            return goes_on

    def _delete(self, folder: Path) -> None:
        """Also what was made read-only."""
        for here, _, names in os.walk(folder):
            os.chmod(here, stat.S_IRWXU)
            for name in names:
                if self._is_closed:
                    return
                _unlink(os.path.join(here, name))
        shutil.rmtree(folder)
