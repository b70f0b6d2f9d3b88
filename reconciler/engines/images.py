"""Names of images: what runs which, and what a name means in full. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from reconciler.config import Engine


def find_engine(image: str, engines: Iterable[Engine]) -> Engine | None:
    """The first engine whose image, or pattern with `*`, is this image."""
    return next((engine for engine in engines if _matches(image, engine.image)), None)


def _matches(image: str, pattern: str) -> bool:
    """Each part at the first place that is left for it: no other choice can match where this one does not."""
    first, *rest = pattern.split("*")
    if not rest:
        return image == pattern
    *middle, last = rest
    at, end = len(first), len(image) - len(last)
    if not (image.startswith(first) and image.endswith(last)):
        return False
    for part in middle:
        found = image.find(part, at, max(at, end))
        if found < 0:
            return False
        at = found + len(part)
    return at <= end


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
