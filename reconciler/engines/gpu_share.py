"""vLLM's own bound on the memory it takes of a GPU, for replicas that share one. Pure."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from reconciler.engines.arguments import find

UTILIZATION = "--gpu-memory-utilization"
_FLAGS = (UTILIZATION, "--device-memory-utilization")


@dataclass(frozen=True, slots=True)
class Utilization:
    """The fraction of each GPU's memory that the arguments allow, and its position among them."""

    value: float
    index: int


def given_utilization(flags: Sequence[str]) -> Utilization | None:
    """The fraction in the arguments; None if there is none, or the engine will refuse it."""
    found = [pair for flag in _FLAGS for pair in find(flags, flag)]
    index, text = max(found, key=lambda pair: pair[0], default=(0, None))
    with contextlib.suppress(ValueError):
        return Utilization(float(text), index) if text is not None else None
    return None


def bound(flags: Sequence[str], share_millis: int) -> tuple[str, ...]:
    """What to add to the arguments, so that the engine keeps to its share; a fraction that is given stays."""
    has_bound = any(find(flags, flag) for flag in _FLAGS)
    return () if has_bound or not share_millis else (f"{UTILIZATION}={share_millis / 1000:g}",)
