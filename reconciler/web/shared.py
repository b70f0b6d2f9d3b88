"""One answer for all who ask at the same moment."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Generic, TypeVar

from starlette.concurrency import run_in_threadpool

Answer = TypeVar("Answer")


class Shared(Generic[Answer]):
    """What takes time and memory for ten thousand services, or is asked for by hundreds of browsers at once.

    It is worked out in a thread, one at a time: a crowd takes neither all threads nor more than one answer's time.
    """

    def __init__(self, work_out: Callable[[], Answer], slots: asyncio.Semaphore | None = None) -> None:
        """`slots`: of which it takes one while it is worked out."""
        self._work_out, self._slots = work_out, slots
        self._lock = asyncio.Lock()
        self._known: tuple[Answer] | None = None
        self._begun = 0.0

    async def get(self) -> Answer:
        """What was worked out since the question came, never what was known before. Raises what that raises."""
        asked = time.monotonic()
        async with self._lock:
            if self._known is None or self._begun < asked:
                async with self._slots or nullcontext():
                    self._begun, self._known = time.monotonic(), None
                    self._known = (await run_in_threadpool(self._work_out),)
            return self._known[0]
