"""An exception that nobody foresaw, raised while one thing of many was judged → what is told of that one."""

from __future__ import annotations

import traceback

from reconciler.model import INTERNAL_ERROR, Bug, Origin, Reason

_FRAMES = 10


def caught(error: Exception, doing: str, origin: Origin | None = None) -> tuple[Reason, Bug]:
    """For people, and for the log. Without the error's own words: they may hold a Secret's."""
    what = type(error).__name__
    text = (
        f"{doing} failed ({what}): a bug in the reconciler; what runs is kept. "
        "Undo the last change, and report the traceback in the daemon's log"
    )
    return Reason(INTERNAL_ERROR, text, origin), Bug(doing, f"{what}\n{frames(error)}")


def frames(error: Exception) -> str:
    """Where it was raised: the first frames and the last, as a recursion has a thousand."""
    found = traceback.format_tb(error.__traceback__)
    return "".join(found if len(found) <= 2 * _FRAMES else [*found[:_FRAMES], "  ...\n", *found[-_FRAMES:]])
