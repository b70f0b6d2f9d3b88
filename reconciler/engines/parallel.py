"""How many GPUs vLLM's arguments use, from the arguments alone. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reconciler.engines.arguments import find

# Each size multiplies; decode context parallel and expert parallel use the GPUs of the others.
_SIZES = (
    ("--tensor-parallel-size", "-tp"),
    ("--pipeline-parallel-size", "-pp"),
    ("--prefill-context-parallel-size", "-pcp"),
    ("--data-parallel-size", "-dp"),
)
# With any of these the arguments do not show how many GPUs this one process takes.
_UNSURE = (
    "--config",
    "--data-parallel-size-local",
    "-dpl",
    "--data-parallel-rank",
    "-dpn",
    "--data-parallel-start-rank",
    "-dpr",
    "--nnodes",
    "-n",
    "--headless",
)


@dataclass(frozen=True, slots=True)
class ParallelSize:
    """The product of the sizes, and where the last of them stands among the arguments; None: none is given."""

    gpus: int
    index: int | None = None


def parallel_size(flags: Sequence[str]) -> ParallelSize | None:
    """None if the arguments do not show it."""
    if any(find(flags, flag) for flag in _UNSURE):
        return None
    gpus, places = 1, list[int]()
    for names in _SIZES:
        given = max((pair for name in names for pair in find(flags, name)), default=None, key=lambda pair: pair[0])
        if given is None:
            continue
        index, text = given
        if text is None or not (text.isascii() and text.isdecimal()) or not 0 < len(text) < 6 or not int(text):
            return None
        gpus *= int(text)
        places.append(index)
    return ParallelSize(gpus, max(places, default=None))
