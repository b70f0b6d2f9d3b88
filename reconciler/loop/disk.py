"""Is the state folder writable? Checked when the status is read, not by passes."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from reconciler.system.files import replace_file

_SECONDS = 5.0
# A disk that is all but full takes an empty file.
_TRIAL = b"\0" * (64 << 10)


class DiskCheck:
    """Writes a small file into a folder, at most every few seconds, and takes it away again."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / ".writable"
        self._lock = threading.Lock()
        self._asked_at = float("-inf")
        self._fault = ""

    def fault(self) -> str:
        """Why nothing can be written there; empty when it can."""
        with self._lock:
            if time.monotonic() - self._asked_at >= _SECONDS:
                self._fault, self._asked_at = self._try(), time.monotonic()
            return self._fault

    def _try(self) -> str:
        try:
            replace_file(self._path, _TRIAL)
            self._path.unlink()
        except OSError as error:
            return f"{self._path.parent}: cannot be written: {error.strerror}"
        return ""
