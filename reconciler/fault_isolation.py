"""An unexpected exception while processing one of many services → the reason shown for that one."""

from __future__ import annotations

import traceback

from reconciler.model import NO_ORIGIN, Bug, NoOrigin, Origin, Reason, ReasonCode, ServiceId

_FRAMES = 10


def caught(error: Exception, doing: str, origin: Origin | NoOrigin = NO_ORIGIN) -> tuple[Reason, Bug]:
    """For users and the log. Without the error's own text: it may hold a Secret's value.

    NO_ORIGIN is for what belongs to no document.
    """
    what = type(error).__name__
    text = (
        f"{doing} failed ({what}): a bug in the reconciler; what runs is kept. "
        "Undo the last change, and report the traceback in the daemon's log"
    )
    return Reason(ReasonCode.INTERNAL_ERROR, text, origin), Bug(doing, f"{what}\n{frames(error)}")


class Faults:
    """Exceptions raised while many services were processed, and why each of those services is left alone."""

    def __init__(self, doing: str) -> None:
        self._doing = doing
        self.reasons: dict[ServiceId, Reason] = {}
        self.bugs: list[Bug] = []

    def note(self, service: ServiceId, error: Exception, origin: Origin | NoOrigin = NO_ORIGIN) -> Reason:
        """Call this in the except block. The first exception of a service is the one that is reported."""
        if service not in self.reasons:
            self.reasons[service] = self.note_other(f"{self._doing} {service}", error, origin)
        return self.reasons[service]

    def note_other(self, doing: str, error: Exception, origin: Origin | NoOrigin = NO_ORIGIN) -> Reason:
        """The same for what belongs to no service."""
        reason, bug = caught(error, doing, origin)
        self.bugs.append(bug)
        return reason


def unexpected(error: BaseException) -> str:
    """For users, about an unexpected exception. Only the system's own text is shown, for the same reason."""
    return f"unexpected {named(error)}"


def named(error: BaseException) -> str:
    """Which one it is, and what the system says."""
    return type(error).__name__ + (f": {error}" if isinstance(error, OSError) else "")


def frames(error: BaseException) -> str:
    """Where it was raised: the first frames and the last, as a recursion has a thousand."""
    found = traceback.format_tb(error.__traceback__)
    return "".join(found if len(found) <= 2 * _FRAMES else [*found[:_FRAMES], "  ...\n", *found[-_FRAMES:]])
