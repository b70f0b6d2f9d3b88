"""What forges have room for."""

from __future__ import annotations

import hashlib


def short_name(name: str, most: int) -> str:
    """The name; a longer one ends in a part of its hash, so that two names do not become one. `most`: at least 20."""
    if len(name) <= most:
        return name
    return f"{name[: most - 17]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def short_url(url: str, most: int) -> str:
    """Empty where it is too long: a part of a URL leads elsewhere."""
    return url if len(url) <= most else ""
