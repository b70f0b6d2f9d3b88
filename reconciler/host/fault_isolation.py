"""Bugs of ours that show while one thing of many is judged: they are told of that one, and the others go on."""

from __future__ import annotations

import structlog

from reconciler.fault_isolation import unexpected

_log = structlog.get_logger()
_Name = tuple[object, ...]


class Bugs:
    """What was raised when each was judged last, by its name. A traceback is logged once, and not in every pass."""

    def __init__(self) -> None:
        self._known: dict[_Name, str] = {}

    def note(self, name: _Name, error: Exception) -> str:
        """To be called where it is caught. Returns it in words."""
        if name not in self._known:
            _log.exception("fault_isolated", subject=" ".join(map(str, name)))
        self._known[name] = text = f"{unexpected(error)}; the daemon's log has the details"
        return text

    def of(self, name: _Name) -> str | None:
        return self._known.get(name)

    def lift(self, name: _Name) -> None:
        """It was judged as it should be."""
        if self._known:
            self._known.pop(name, None)
