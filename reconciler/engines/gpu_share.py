"""vLLM's own bound on the memory it takes of a GPU, for replicas that share one. Pure."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from reconciler.engines.arguments import find, has_flag
from reconciler.model import NO_ORIGIN, Argument

UTILIZATION = "--gpu-memory-utilization"
_FLAGS = (UTILIZATION, "--device-memory-utilization")


@dataclass(frozen=True, slots=True)
class Utilization:
    """The fraction of each GPU's memory that the arguments allow, and which of them does."""

    value: float
    argument: Argument


def given_utilization(flags: Sequence[Argument]) -> Utilization | None:
    """The fraction in the arguments; None if there is none, or the engine will refuse it."""
    for argument, text in find(flags, *_FLAGS)[-1:]:
        with contextlib.suppress(ValueError):
            return Utilization(float(text), argument) if text is not None else None
    return None


def bound(flags: Sequence[Argument], share_millis: int) -> tuple[Argument, ...]:
    """What to add to the arguments, so that the engine keeps to its share; a fraction that is given stays."""
    if not share_millis or has_flag(flags, *_FLAGS):
        return ()
    # It follows from an annotation: no line has this argument.
    return (Argument(f"{UTILIZATION}={share_millis / 1000:g}", NO_ORIGIN),)
