"""What could not be told others, as text. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from reconciler.report.redact import one_line
from reconciler.report.status import Document

_MOST_DEAD = 5


def delivery_lines(status: Document) -> Iterator[str]:
    """Who takes nothing now, and what was given up. Nothing where all is well, or the daemon tells nobody."""
    if error := (status.get("pullRequests") or {}).get("error"):
        yield ""
        yield f"Pull requests cannot be planned: {one_line(error)}"
    forge = status.get("forge")
    if not forge:
        return
    troubled = [one for one in forge["waiting"] if one["error"]]
    if troubled or forge["error"]:
        yield ""
        yield "Not delivered:"
        yield from (f"  {one_line(_waiting(one))}" for one in troubled)
        yield from (f"  {one_line(error)}" for error in [forge["error"]] if error)
    if forge["dead"]:
        yield ""
        yield "Given up:"
        yield from (f"  {one_line(_dead(one))}" for one in forge["dead"][:_MOST_DEAD])
        if (more := forge["deadCount"] - _MOST_DEAD) > 0:
            yield f"  and {more} more"


def _dead(one: Document) -> str:
    return f"{one['destination']}: {one['message']}: {one['error']}"


def _waiting(one: Document) -> str:
    since = f" since {one['since'][:19]}Z" if one["since"] else ""
    return f"{one['destination']}: {one['count']} waiting{since}: {one['error']}"
