"""What is free of the GPUs of all hosts, read when a page asks for it: passes only read it before a start.

Drivers answer slowly, or never: it is read in a thread of its own, one at a time, and not more often than it changes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol, runtime_checkable

import structlog

from reconciler.errors import ReconcileError
from reconciler.model import GpuUse
from reconciler.report.status import Document
from reconciler.report.status_parts import gpu_use_document

log = structlog.get_logger()

_OFTEN = 5.0
_OLDEST = 60.0
# A page is shown without it rather than late.
_PATIENCE = 0.5


@runtime_checkable
class SeesGpus(Protocol):
    """A target that is a host."""

    def gpu_use(self) -> Mapping[str, GpuUse]:
        """What is free of its GPUs now, by UUID. Asked by any thread. Raises Retryable."""


class GpuReadings:
    """The latest reading of each target. Answers within half a second."""

    def __init__(self, targets: Callable[[], Iterable[tuple[str, object]]]) -> None:
        self._targets = targets
        self._lock = threading.Lock()
        self._known: Mapping[str, Mapping[str, Document]] = {}
        self._known_at = self._begun = -_OLDEST
        self._ended = threading.Event()
        self._ended.set()

    def latest(self) -> Mapping[str, Mapping[str, Document]]:
        """By target, and by UUID as `use` in the status document. Nothing where there is no driver, or it hangs."""
        with self._lock:
            if self._ended.is_set() and time.monotonic() - self._begun >= _OFTEN:
                self._begun = time.monotonic()
                self._ended.clear()
                threading.Thread(target=self._read, name="gpu-readings", daemon=True).start()
        self._ended.wait(_PATIENCE)
        return self._known if time.monotonic() - self._known_at < _OLDEST else {}

    def _read(self) -> None:
        try:
            hosts = [(name, target) for name, target in self._targets() if isinstance(target, SeesGpus)]
            self._known = {name: _reading(target) for name, target in hosts}
            self._known_at = time.monotonic()
        except Exception:
            log.exception("gpus_not_read")
        finally:
            self._ended.set()


def _reading(target: SeesGpus) -> Mapping[str, Document]:
    """Nothing where the driver fails: passes say so as well."""
    try:
        return {uuid: gpu_use_document(use) for uuid, use in target.gpu_use().items()}
    except ReconcileError:
        return {}
