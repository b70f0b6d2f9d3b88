"""The proxy's files: always whole. What the disk refuses is said in words, and tried again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reconciler.errors import Retryable
from reconciler.files import replace_file as replace_bytes
from reconciler.files import write_atomically


def write_file(path: Path, text: str) -> None:
    """Puts a text in place, unless it is there already. Raises Retryable."""
    with _said(path):
        write_atomically(path, text.encode())


def replace_file(path: Path, text: str) -> None:
    """Puts a text in place also where it is there already: Envoy then looks at it anew. Raises Retryable."""
    with _said(path):
        replace_bytes(path, text.encode())


def read_file(path: Path) -> str | None:
    """The content, or None if there is none that can be read as text."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


@contextmanager
def _said(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Retryable(f"{path}: cannot be written: {error.strerror}; is the disk full?") from error
