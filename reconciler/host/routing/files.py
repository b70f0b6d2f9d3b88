"""The proxy's files: always whole. A failed write is reported as text, and retried."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reconciler.errors import Retryable
from reconciler.system.files import replace_file as replace_bytes
from reconciler.system.files import write_atomically
from reconciler.system.os_errors import cannot

# The folder says who may enter; a proxy with a user of its own reads as a member of its group.
_MODE = 0o640


def write_file(path: Path, text: str) -> None:
    """Puts a text in place, unless it is there already. Raises Retryable."""
    with _said(path):
        write_atomically(path, text.encode(), _MODE, _group(path))


def replace_file(path: Path, text: str) -> None:
    """Puts a text in place even if it is unchanged: Envoy then reads it again. Raises Retryable."""
    with _said(path):
        replace_bytes(path, text.encode(), _MODE, _group(path))


def read_file(path: Path) -> str | None:
    """The content, or None if there is none that can be read as text."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _group(path: Path) -> int:
    """Its folder's. We cannot set the bit for that: our unit has RestrictSUIDSGID."""
    return path.parent.stat().st_gid if os.geteuid() == 0 else -1


@contextmanager
def _said(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Retryable(cannot(error, path, "written", "is the disk full?")) from error
