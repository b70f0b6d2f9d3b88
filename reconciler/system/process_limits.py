"""Limits that a process sets itself: on what it reads, and on its memory with many short-lived threads."""

from __future__ import annotations

import ctypes
import math
import resource
from contextlib import suppress
from pathlib import Path

# Ten thousand services take a tenth of each.
MEMORY_BYTES = 2 << 30
CPU_SECONDS = 120.0


def limit_memory(most: int) -> None:
    """From now on asking for more raises MemoryError; what a program has of files on disk does not count."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    least = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (least, hard))


def limit_cpu(seconds: float) -> None:
    """After so much more CPU time SIGXCPU comes, which ends a process that does not handle it."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = math.ceil(used.ru_utime + used.ru_stime + seconds)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def be_ended_first() -> None:
    """Where the machine has no memory left, this is the process to end."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


_M_ARENA_MAX = -8  # from malloc.h


def share_heap() -> None:
    """Let all threads share two heaps. By default glibc gives each its own, and what it grew to once stays with us."""
    with suppress(OSError, AttributeError):
        # Not every C library has it.
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)
