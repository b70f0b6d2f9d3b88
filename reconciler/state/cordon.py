"""What host.yaml last said about the whole host: one small file, so that it holds while host.yaml cannot be read."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reconciler.errors import Retryable
from reconciler.model import DesiredState, Origin, Reason, ReasonCode
from reconciler.system.files import cannot, error_text, make_folder, write_atomically

_UNREADABLE = "its host.yaml cannot be read, and last said so"


@dataclass(frozen=True, slots=True)
class _Said:
    """What it said: that nothing may run, or that nothing new may start."""

    drain: Reason | None = None
    unschedulable: Reason | None = None


class Cordon:
    """Remembers whether a host was drained or cordoned. Neither a broken nor a missing host.yaml changes that."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: _Said | None = None

    def settle(self, desired: DesiredState) -> DesiredState:
        """What git asks for; if git has no answer now, the last one. Raises Retryable if there is none.

        As a Node does, a host that was drained stays empty until it is schedulable again.
        """
        if not desired.host_known:
            last = self._last()
            return replace(
                desired,
                drain=last.drain and replace(last.drain, message=f"the host is still drained: {_UNREADABLE}"),
                unschedulable=last.unschedulable
                and replace(last.unschedulable, message=f"the host is still cordoned: {_UNREADABLE}"),
            )
        if desired.drain or not desired.unschedulable or not self._last().drain:
            return desired
        text = "the host was drained, and stays empty until spec.unschedulable is removed too"
        return replace(desired, drain=replace(desired.unschedulable, code=ReasonCode.DRAINED, message=text))

    def remember(self, desired: DesiredState) -> tuple[tuple[str, str], ...]:
        """Keep git's setting. Returns an event, and why, for each change. Raises Retryable."""
        said = _Said(desired.drain, desired.unschedulable)
        if not desired.host_known or self._known == said:
            return ()
        before = self._last()
        if before != said:
            self._write(said)
        self._known = said
        return (
            *_change("host_drained", "host_undrained", before.drain, said.drain),
            *_change("cordoned", "uncordoned", before.unschedulable, said.unschedulable),
        )

    def _last(self) -> _Said:
        if self._known is not None:
            return self._known
        try:
            return _read(json.loads(self._path.read_bytes()))
        except FileNotFoundError:
            return _Said()
        except OSError as error:
            raise Retryable(error_text(error, self._path)) from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Retryable(
                f"{self._path}: cannot be read: {error}; remove it if the host is neither drained nor cordoned, "
                "or fix host.yaml"
            ) from None

    def _write(self, said: _Said) -> None:
        try:
            if said == _Said():
                self._path.unlink(missing_ok=True)
                return
            kept = _kept(said.drain) | ({"unschedulable": _kept(said.unschedulable)} if said.unschedulable else {})
            make_folder(self._path.parent)
            write_atomically(self._path, json.dumps(kept).encode())
        except OSError as error:
            raise Retryable(cannot(error, self._path, "written")) from None


def _read(found: Any) -> _Said:
    """Older versions knew nothing but a drain, which they called a cordon."""
    more = found.get("unschedulable")
    return _Said(
        _reason(ReasonCode.DRAINED, found) if "message" in found or more is None else None,
        _reason(ReasonCode.CORDONED, more) if more is not None else None,
    )


def _reason(code: ReasonCode, found: Any) -> Reason:
    return Reason(code, found["message"], Origin(found["file"], found["line"]))


def _kept(why: Reason | None) -> dict[str, Any]:
    if why is None:
        return {}
    origin = why.origin or Origin("host.yaml", 1)
    return {"message": why.message, "file": origin.file, "line": origin.line}


def _change(begins: str, ends: str, before: Reason | None, now: Reason | None) -> tuple[tuple[str, str], ...]:
    if (before is None) == (now is None):
        return ()
    return ((begins, str(now)) if now else (ends, "host.yaml asks for it no longer"),)
