"""How thoroughly properties are looked at: `tests/run.sh fast` takes a tenth of the examples, everything else all."""

from __future__ import annotations

import os


def examples(count: int) -> int:
    """So many examples of a property, or a tenth of them where time is short."""
    return max(10, count // 10) if os.environ.get("RECONCILER_TEST_FAST") else count
