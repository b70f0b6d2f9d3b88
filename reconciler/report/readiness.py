"""Is the daemon ready: does what git says become real here? Read from the status document. Pure.

Ready means that git was understood at least once, that every target was looked at lately and can be acted on, and that
our own folder takes what has to be written down. A source or config that fails now is named but keeps nobody from being
ready: what it said last holds, and is kept so. What is said is for everybody to read: it names no path and no address.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from reconciler.report.status import Document


@dataclass(frozen=True, slots=True)
class Readiness:
    """`waiting_for` keeps it from being ready, `failing` does not."""

    waiting_for: tuple[str, ...]
    failing: tuple[str, ...]

    @property
    def word(self) -> str:
        return "waiting" if self.waiting_for else "degraded" if self.failing else "ok"


def readiness(status: Document, age: float, oldest: float) -> Readiness:
    """`age`: seconds since the target that was looked at least lately was; from `oldest` on that is too long."""
    waiting = [*_daemon(status), *_targets(status)]
    if age > oldest:
        waiting.append(f"a pass: the last one over some target was {age:.0f} s ago")
    return Readiness(tuple(waiting), tuple(_failing(status)))


def _failing(status: Document) -> Iterator[str]:
    if status["revision"]["error"]:
        yield "source: it cannot be fetched or read; what it said last is kept"
    if status["daemon"].get("configFault"):
        yield "config: it cannot be used; the one before it stays in force"


def _daemon(status: Document) -> Iterator[str]:
    if not status["revision"]["wanted"]:
        yield "the first revision that can be read"
    if not status["daemon"]["passes"]:
        yield "the first pass"
    if status["daemon"].get("fault"):
        yield "the state folder: nothing can be written there"


def _targets(status: Document) -> Iterator[str]:
    for target in status["targets"]:
        if target["passError"]:
            yield f"target {target['name']}: its last pass ended in an error"
        elif not target["reachable"]:
            yield f"target {target['name']}"
        elif target["services"] and not target["proxyReady"]:
            yield f"target {target['name']}: its proxy does not answer"
        elif target["lastError"]:
            yield f"target {target['name']}: its last pass could not do all that it had to"
