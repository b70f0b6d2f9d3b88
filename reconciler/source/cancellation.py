"""The daemon ends, or reloads its config: cancel waiting for a remote that does not respond."""

from __future__ import annotations

import threading

from reconciler.errors import Stopping


class Ending:
    """Checked several times a second by everything that may wait for long."""

    def __init__(self) -> None:
        self._begun = threading.Event()

    def begin(self) -> None:
        self._begun.set()

    def check(self) -> None:
        """Raises Stopping once it has begun."""
        if self._begun.is_set():
            raise Stopping("git was not read: the daemon is ending")
