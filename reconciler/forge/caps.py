"""What forges have room for."""

from __future__ import annotations

import hashlib


def short_name(name: str, most: int) -> str:
    """The name; a longer one ends in a part of its hash, so that two names do not become one. `most`: at least 20."""
    if len(name) <= most:
        return name
    return f"{name[: most - 17]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def short_url(url: str, most: int) -> str:
    """The page instead of a place on it where that is too long; empty where both are, as other cuts lead elsewhere."""
    return next((one for one in (url, url.partition("#")[0]) if len(one) <= most), "")
