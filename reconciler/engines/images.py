"""Which interpreter runs an image, and which commands we can run with it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from reconciler.config import Engine

_PYTHON = re.compile(r"python3?(\.\d+)?")
SERVER_MODULE = "vllm.entrypoints.openai.api_server"


def find_engine(image: str, engines: Iterable[Engine]) -> Engine | None:
    """The first engine whose image, or pattern with `*`, is this image."""
    return next((engine for engine in engines if _pattern(engine.image).fullmatch(image)), None)


@lru_cache(256)
def _pattern(image: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part) for part in image.split("*")), re.DOTALL)


def engine_arguments(command: Sequence[str], args: Sequence[str]) -> tuple[str, ...] | None:
    """vLLM's own arguments in a container's command line; None when it is no way of starting vLLM that we know.

    Known are `python -m vllm.entrypoints.openai.api_server …`, `vllm serve …` and an image's own entry point, wherever
    the line is cut into command and args. A model that `vllm serve` takes as its first word stays the first word.
    """
    words = (*command, *args)
    if not command:
        return words[1:] if words[:1] == ("serve",) else words
    name = words[0].rpartition("/")[2]
    if _PYTHON.fullmatch(name) and words[1:3] == ("-m", SERVER_MODULE):
        return words[3:]
    if name == "vllm" and words[1:2] == ("serve",):
        return words[2:]
    return None
