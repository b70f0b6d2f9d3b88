"""What the last lines of a crashed engine's log say about whose fault it was. Pure."""

from __future__ import annotations

from collections.abc import Iterable

BEFORE_READY, WHILE_SERVING = "before it was ready", "while it served"
"""When a replica failed, as the message of its failure says it."""

# Of the system, and of vLLM when it looks at its GPU before and after it measured what it needs.
_CROWDED_OUT = ("address already in use", "free memory on device", "error in memory profiling")

# In the log's last lines: the host's disk, memory or devices failed it.
_HOST_FAULTS = (
    "no space left on device",
    "disk quota exceeded",
    "cannot allocate memory",
    "input/output error",
    "too many open files in system",
    "uncorrectable ecc error",
)


def blames_host(last_words: Iterable[str]) -> bool:
    """Did the host fail it, so that another commit would have failed too?"""
    return any(sign in line.lower() for line in last_words for sign in _HOST_FAULTS)


def is_crowded_out(last_words: Iterable[str]) -> bool:
    """Did the engine die only because another process had its port, or memory of its GPU? That is no commit's fault."""
    return any(sign in line.lower() for line in last_words for sign in _CROWDED_OUT)
