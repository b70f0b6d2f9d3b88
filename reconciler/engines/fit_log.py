"""Memory figures in the log of a started vLLM. Pure.

The lines of 0.32, with GPU and with CPU; older versions write the last one as two.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

GIB = 1 << 30
_LOADED = re.compile(r"Model loading took (\d+(?:\.\d+)?) GiB")
_CACHE = re.compile(r"Available KV cache memory: (-?\d+(?:\.\d+)?) GiB|Auto set \((\d+(?:\.\d+)?)/[\d.]+\) GiB for KV")
_CONSUMED = re.compile(r"(?<![\d.])(\d+(?:\.\d+)?) GiB memory was consumed by non-kv usages")
_TOKENS = re.compile(r"KV cache size: ([\d,]+) tokens")
_CONCURRENCY = re.compile(r"Maximum concurrency for ([\d,]+) tokens per request: (\d+(?:\.\d+)?)x")


@dataclass(frozen=True, slots=True)
class MeasuredMemory:
    """What one start measured, for each GPU; None where it said nothing.

    `consumed_bytes` is all but the cache, as only a CPU says it: weights and overhead together.
    """

    weights_bytes: int | None = None
    cache_bytes: int | None = None
    consumed_bytes: int | None = None
    tokens: int | None = None
    max_model_len: int | None = None
    concurrency: float | None = None


def read_figures(lines: Iterable[str]) -> MeasuredMemory | None:
    """The figures of the last start in a log, or None when it never got that far."""
    text = "\n".join(lines)
    tokens, concurrency = _last(_TOKENS, text), _last(_CONCURRENCY, text)
    if tokens is None or concurrency is None:
        return None
    # Every GPU writes its own line: the fullest one sets the limit.
    loaded = [float(match[1]) for match in _LOADED.finditer(text)]
    caches = [float(match[1] or match[2]) for match in _CACHE.finditer(text)]
    consumed = [float(match[1]) for match in _CONSUMED.finditer(text)]
    return MeasuredMemory(
        weights_bytes=_bytes(max(loaded, default=None)),
        cache_bytes=_bytes(min(caches, default=None)),
        consumed_bytes=_bytes(max(consumed, default=None)),
        tokens=_count(tokens[1]),
        max_model_len=_count(concurrency[1]),
        concurrency=float(concurrency[2]),
    )


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    return next(reversed([*pattern.finditer(text)]), None)


def _bytes(gib: float | None) -> int | None:
    return None if gib is None or gib < 0 else round(gib * GIB)


def _count(text: str) -> int:
    return int(text.replace(",", "") or 0)
