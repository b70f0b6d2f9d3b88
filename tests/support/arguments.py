"""Arguments as a test writes them."""

from __future__ import annotations

from collections.abc import Iterable

from reconciler.model import NO_ORIGIN, Argument, Origin


def written(*given: str | Argument) -> tuple[Argument, ...]:
    """Texts become arguments without a line, where a test has no use for lines."""
    return tuple(each if isinstance(each, Argument) else Argument(each, NO_ORIGIN) for each in given)


def written_in(file: str, first: int, texts: Iterable[str]) -> tuple[Argument, ...]:
    """Each in a line of its own."""
    return tuple(Argument(text, Origin(file, line)) for line, text in enumerate(texts, first))
