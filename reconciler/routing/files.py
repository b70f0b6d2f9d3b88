"""Files that are either the old or the new one, whenever somebody looks."""

from __future__ import annotations

import os
from pathlib import Path

from reconciler.errors import Retryable


def replace_file(path: Path, text: str) -> None:
    """Writes beside, flushes to disk, renames into place. Raises Retryable."""
    beside = path.with_name(f".{path.name}.tmp")
    try:
        with open(beside, "w", encoding="utf-8", opener=_private) as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        raise Retryable(f"{path}: cannot be written: {error.strerror}; is the disk full?") from error


def read_file(path: Path) -> str | None:
    """The content, or None if there is none that can be read as text."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
