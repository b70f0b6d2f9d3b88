"""Which interpreter runs an image. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from reconciler.config import Engine


def find_engine(image: str, engines: Iterable[Engine]) -> Engine | None:
    """The first engine whose image, or pattern with `*`, is this image."""
    return next((engine for engine in engines if _pattern(engine.image).fullmatch(image)), None)


@lru_cache(256)
def _pattern(image: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part) for part in image.split("*")), re.DOTALL)
