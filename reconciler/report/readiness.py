"""Is the daemon ready to reconcile? Read from the status document. Pure.

Ready means that a revision was read at least once, that every target was observed lately and is reachable, and that
the state folder is writable. A source or config that fails now is listed, but does not make the daemon unready: its
last revision stays in force. The text is public: it holds no path and no address.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from reconciler.report.status import Document


@dataclass(frozen=True, slots=True)
class Readiness:
    """`waiting_for` makes it unready, `failing` does not."""

    waiting_for: tuple[str, ...]
    failing: tuple[str, ...]

    @property
    def status(self) -> str:
        return "waiting" if self.waiting_for else "degraded" if self.failing else "ok"


def readiness(status: Document, age: float, oldest: float) -> Readiness:
    """`age`: seconds since the oldest observation of a target; from `oldest` on it is stale."""
    waiting = [*_daemon(status), *_targets(status)]
    if age > oldest:
        waiting.append(f"a pass: the last one of some target was {age:.0f} s ago")
    return Readiness(tuple(waiting), tuple(_failing(status)))


def _failing(status: Document) -> Iterator[str]:
    if status["revision"]["error"]:
        yield "source: cannot be fetched or read; the last revision stays in force"
    if status["daemon"].get("configFault"):
        yield "config: invalid; the previous one stays in force"


def _daemon(status: Document) -> Iterator[str]:
    if not status["revision"]["desired"]:
        yield "the first revision that can be read"
    if not status["daemon"]["passes"]:
        yield "the first pass"
    if status["daemon"].get("fault"):
        yield "the state folder is not writable"


def _targets(status: Document) -> Iterator[str]:
    for target in status["targets"]:
        if target["passError"]:
            yield f"target {target['name']}: its last pass failed"
        elif not target["reachable"]:
            yield f"target {target['name']}"
        elif target["services"] and not target["proxyReady"]:
            yield f"target {target['name']}: its proxy is not responding"
        elif target["lastError"]:
            yield f"target {target['name']}: its last pass failed in part"
