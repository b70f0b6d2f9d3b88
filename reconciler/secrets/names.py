"""Which names stand for values that nobody may read. Pure."""

from __future__ import annotations

import re

# `tokens` alone is a count here (`max_tokens`), and a path is no secret (`token_file`).
_NAME = re.compile(
    r"(?i)(password|passwd|secret|authorization|credential|cookie|api[-_]?key|private[-_]?key|token(?!s))"
)
_PATH_NAME = re.compile(r"(?i)[-_.](file|path|dir|uri|url)$")


def is_secret_name(name: str) -> bool:
    """Would a value under this name be one that nobody may read?"""
    return bool(_NAME.search(name)) and not _PATH_NAME.search(name)
