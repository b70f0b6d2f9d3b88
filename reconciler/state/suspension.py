"""Manual requests: which services are suspended, whether the host is drained.

A small file each, so that it outlives the daemon. An entry ends by itself at its time: who reads leaves out what is
over, and the next pass takes it out of the file.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from reconciler.errors import Retryable
from reconciler.model import EVERYTHING, ByHand
from reconciler.system.files import cannot, error_text, make_folder, write_atomically

LATEST = 253_402_300_800.0
"""The end of the year 9999: dates end there."""


class _HandFile:
    """Names with their manual request. Safe to use from several threads."""

    _when_removed = ""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.RLock()

    def in_force(self) -> Mapping[str, ByHand]:
        """What holds now. Raises Retryable when the file cannot be read: unknown is not missing."""
        now = time.time()
        return {name: asked for name, asked in self._read().items() if not asked.is_over(now)}

    def expire(self) -> Mapping[str, ByHand]:
        """Take out what is over, and return it. Raises Retryable."""
        with self._lock:
            known, now = self._read(), time.time()
            over = {name: asked for name, asked in known.items() if asked.is_over(now)}
            if over:
                self._write({name: asked for name, asked in known.items() if name not in over})
        return over

    def _read(self) -> dict[str, ByHand]:
        try:
            return _entries(json.loads(self._path.read_bytes()))
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise Retryable(error_text(error, self._path)) from None
        except (ValueError, TypeError) as error:
            raise Retryable(f"{self._path}: cannot be read: {error}; {self._when_removed}") from None

    def _write(self, entries: Mapping[str, ByHand]) -> None:
        data = json.dumps({name: asdict(entries[name]) for name in sorted(entries)})
        try:
            make_folder(self._path.parent)
            write_atomically(self._path, data.encode())
        except OSError as error:
            raise Retryable(cannot(error, self._path, "written")) from None


def _entries(found: Any) -> dict[str, ByHand]:
    """Older versions wrote a list of names. Raises ValueError or TypeError."""
    if isinstance(found, list):
        return {str(name): ByHand() for name in found}
    if not isinstance(found, dict):
        raise ValueError("expected an object")
    return {name: _entry(**known) for name, known in found.items()}


def _entry(by: str = "", at: float | None = None, reason: str = "", until: float | None = None, **_: object) -> ByHand:
    """What a newer version adds is passed over. Raises ValueError or TypeError."""
    return ByHand(str(by), _moment(at), str(reason), _moment(until))


def _moment(at: float | None) -> float | None:
    if at is not None and not 0 <= float(at) < LATEST:
        raise ValueError(f"{at} is not a time")
    return None if at is None else float(at)


class Suspension(_HandFile):
    """Names (`namespace/name`, or `*` for all) of suspended services."""

    _when_removed = "remove it to suspend nothing"

    def names(self) -> frozenset[str]:
        """Raises Retryable when the file cannot be read."""
        return frozenset(self.in_force())

    def add(self, service: str | None, asked: ByHand | None = None) -> None:
        """Suspend one service, or everything. If it is already suspended, the latest request counts."""
        with self._lock:
            self._write({**self._read(), service or EVERYTHING: asked or ByHand()})

    def lift(self, service: str | None) -> Mapping[str, ByHand]:
        """Resume one service, or everything. Returns what is no longer suspended."""
        with self._lock:
            known = self.in_force()
            if service is not None and EVERYTHING in known:
                raise Retryable("the whole target is suspended; `reconciler resume` without a service lifts that")
            kept = {} if service is None else {name: asked for name, asked in known.items() if name != service}
            self._write(kept)
        return {name: asked for name, asked in known.items() if name not in kept}


class HostDrain(_HandFile):
    """Is the whole host drained manually?"""

    _when_removed = "remove it if the host is not to be drained"

    def current(self) -> ByHand | None:
        """Who drained it; None while it is not drained. Raises Retryable when the file cannot be read."""
        return self.in_force().get(EVERYTHING)

    def begin(self, asked: ByHand) -> None:
        """Drain the host. If it is already drained, the latest request counts."""
        with self._lock:
            self._write({EVERYTHING: asked})

    def end(self) -> ByHand | None:
        """Lift it. Returns what was lifted."""
        with self._lock:
            known = self.current()
            if known:
                self._write({})
        return known
