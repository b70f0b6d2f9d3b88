"""How many GPUs vLLM's arguments use, from the arguments alone. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reconciler.engines.arguments import find, has_flag
from reconciler.model import Argument

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
    """The product of the sizes, and the last argument that gives one; None: none does."""

    gpus: int
    argument: Argument | None = None


def parallel_size(flags: Sequence[Argument]) -> ParallelSize | None:
    """None if the arguments do not show it."""
    if has_flag(flags, *_UNSURE):
        return None
    gpus = 1
    for names in _SIZES:
        for _, text in find(flags, *names)[-1:]:
            if text is None or not (text.isascii() and text.isdecimal()) or not 0 < len(text) < 6 or not int(text):
                return None
            gpus *= int(text)
    given = find(flags, *(name for names in _SIZES for name in names))
    return ParallelSize(gpus, given[-1][0] if given else None)
