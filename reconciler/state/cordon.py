"""The last known drain settings of host.yaml:

one small file, so that they stay in force while host.yaml is unreadable.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from reconciler.errors import Retryable
from reconciler.model import DesiredState, Origin, Reason, ReasonCode
from reconciler.system.files import make_folder, write_atomically
from reconciler.system.os_errors import cannot, error_text


class Cordon:
    """Remembers whether a host was cordoned. Neither a broken nor a missing host.yaml drains or uncordons it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: tuple[Reason | None] | None = None

    def settle(self, desired: DesiredState) -> DesiredState:
        """What git asks for; if git has no answer now, the last one. Raises Retryable if there is none."""
        if desired.host_known or (last := self._last()) is None:
            return desired
        text = "the host is still cordoned: its host.yaml cannot be read, and last said so"
        return replace(desired, drain=replace(last, message=text))

    def remember(self, desired: DesiredState) -> bool:
        """Keep git's setting. True when it differs from the one before. Raises Retryable."""
        if not desired.host_known or self._known == (desired.drain,):
            return False
        before = self._last()
        if before != desired.drain:
            self._write(desired.drain)
        self._known = (desired.drain,)
        return (before is None) != (desired.drain is None)

    def _last(self) -> Reason | None:
        if self._known is not None:
            return self._known[0]
        try:
            found = json.loads(self._path.read_bytes())
            return Reason(ReasonCode.CORDONED, found["message"], Origin(found["file"], found["line"]))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Retryable(error_text(error, self._path)) from None
        except (ValueError, KeyError, TypeError) as error:
            raise Retryable(
                f"{self._path}: cannot be read: {error}; remove it if the host is not cordoned, or fix host.yaml"
            ) from None

    def _write(self, cordon: Reason | None) -> None:
        try:
            if cordon is None:
                self._path.unlink(missing_ok=True)
                return
            origin = cordon.origin or Origin("host.yaml", 1)
            record = {"message": cordon.message, "file": origin.file, "line": origin.line}
            make_folder(self._path.parent)
            write_atomically(self._path, json.dumps(record).encode())
        except OSError as error:
            raise Retryable(cannot(error, self._path, "written")) from None
