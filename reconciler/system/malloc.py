"""Memory of a process with many short-lived threads."""

from __future__ import annotations

import ctypes
from contextlib import suppress

_M_ARENA_MAX = -8  # from malloc.h


def share_heap() -> None:
    """Let all threads share two heaps. By default glibc gives each its own, and what it grew to once stays with us."""
    with suppress(OSError, AttributeError):
        # Not every C library has it.
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)
