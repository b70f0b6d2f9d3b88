"""Names of images: what runs which, and what a name means in full. Pure."""

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


def full_name(image: str) -> str:
    """`vllm` → `docker.io/library/vllm:latest`: what a cluster's hosts take it for. A digest makes a tag needless."""
    first, slash, _ = image.partition("/")
    if not slash:
        image = f"docker.io/library/{image}"
    elif "." not in first and ":" not in first and first != "localhost":
        image = f"docker.io/{image}"
    named, _, digest = image.partition("@")
    repository, colon, tag = named.rpartition(":")
    if not colon or "/" in tag:
        repository, tag = named, "latest"
    return f"{repository}@{digest}" if digest else f"{repository}:{tag}"
