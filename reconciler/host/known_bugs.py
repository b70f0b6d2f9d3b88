"""Unexpected exceptions while one thing of many is processed: reported for that one, and the others continue."""

from __future__ import annotations

import structlog

from reconciler.fault_isolation import unexpected

_log = structlog.get_logger()
_Name = tuple[object, ...]


class KnownBugs:
    """The latest exception of each, by its name. A traceback is logged once, and not in every pass."""

    def __init__(self) -> None:
        self._known: dict[_Name, str] = {}

    def note(self, name: _Name, error: Exception) -> str:
        """Call this in the except block. Returns its text."""
        if name not in self._known:
            _log.exception("fault_isolated", subject=" ".join(map(str, name)))
        self._known[name] = text = f"{unexpected(error)}; the daemon's log has the details"
        return text

    def of(self, name: _Name) -> str | None:
        return self._known.get(name)

    def lift(self, name: _Name) -> None:
        """It was processed without an exception."""
        if self._known:
            self._known.pop(name, None)
