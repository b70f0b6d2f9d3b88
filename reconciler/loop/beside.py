"""What runs beside the passes, in threads of its own: no pass waits for it, and its failure is none of theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, runtime_checkable

from reconciler.config.settings import Settings
from reconciler.forge.outbox import Outbox
from reconciler.report.status import Document
from reconciler.web.control import Control


class Beside(Protocol):
    """One such part, of one daemon. All of it returns at once but `stop`, which takes a few seconds at most."""

    def start(self) -> None:
        """Called once, after everything else of the daemon has started."""

    def wake(self) -> None:
        """The status may say something else now: a pass has ended, or git was asked. Called often, by any thread."""

    def stop(self) -> None:
        """End. Called also where `start` was not."""

    def document(self) -> Document:
        """What the status document tells of it, by key."""


@runtime_checkable
class SeesPullRequests(Protocol):
    """A part that looks at pull requests now and then."""

    def look_at_pull_requests(self) -> None:
        """One has changed: look now. Returns at once."""


@runtime_checkable
class HasOutbox(Protocol):
    """A part that keeps what others are told."""

    outbox: Outbox


def outbox_of(parts: Iterable[Beside]) -> Outbox | None:
    """None where the config tells nobody."""
    return next((part.outbox for part in parts if isinstance(part, HasOutbox)), None)


def make_beside(settings: Settings, control: Control, changed: Callable[[], None]) -> tuple[Beside, ...]:
    """The parts that the config asks for; what they need is imported only then. Raises ReconcileError.

    They call `changed` when their part of the status document says something else without a pass.
    """
    return (*_of_the_forge(settings, control), *_of_the_page(settings, changed))


def _of_the_page(settings: Settings, changed: Callable[[], None]) -> tuple[Beside, ...]:
    if not settings.web.peers:
        return ()
    from reconciler.web.peers import Peers

    return (Peers(settings.web.peers, changed),)


def _of_the_forge(settings: Settings, control: Control) -> tuple[Beside, ...]:
    if not settings.forge.is_used and not settings.notifications:
        return ()
    from reconciler.loop.answering import Answering

    answering = Answering(settings, control.status)
    if not settings.forge.is_used or settings.forge.pull_requests == "none":
        return (answering,)
    from reconciler.forge.open import open_forge
    from reconciler.loop.pull_requests import PullRequestPlans

    # It uses the outbox, and ends first.
    said = answering.outbox.sections
    return (PullRequestPlans(settings, control.status, open_forge(settings), answering.put, said), answering)
