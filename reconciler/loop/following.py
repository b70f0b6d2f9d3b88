"""Git, asked again and again by a thread of its own: the newest revision that is accepted, and why none is newer."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

import structlog

from reconciler.config.settings import Settings
from reconciler.errors import ReconcileError, RevisionRefused, Unverified
from reconciler.fault_isolation import unexpected
from reconciler.loop.failures import pass_error_text
from reconciler.loop.source_recorder import SourceRecorder
from reconciler.model import Snapshot
from reconciler.model.backoff import backoff
from reconciler.report.status import RefusedRevision, RevisionInfo
from reconciler.report.status_parts import NOT_FETCHED
from reconciler.source import GitSource, LocalWatch
from reconciler.web.metrics import Metrics

log = structlog.get_logger()


class SourceFollower:
    """What of git is in force. Any thread may read it, wake it or ask git itself."""

    def __init__(
        self,
        settings: Settings,
        source: GitSource,
        recorder: SourceRecorder,
        metrics: Metrics,
        check_state: Callable[[], None],
    ) -> None:
        """`check_state` raises before git is asked, when that would be in vain."""
        self.source = source
        self.snapshot: Snapshot | None = None
        self.has_failed = False
        self._interval = settings.source.interval
        self._recorder, self._metrics, self._check_state = recorder, metrics, check_state
        self._watch = LocalWatch(settings.source, self.wake)
        self._stop = threading.Event()
        self._ask = threading.Event()
        self._polling = threading.Lock()
        self._error = NOT_FETCHED
        self._refused: RefusedRevision | None = None
        self._fetched_at: float | None = None
        self._thread = threading.Thread(target=self._follow, name="source")
        self._changed: Callable[[], None] = lambda: None
        self._answered: Callable[[], None] = lambda: None

    def start(self, changed: Callable[[], None], answered: Callable[[], None]) -> None:
        """`changed`: there is something new for passes. `answered`: what is told of git may be new."""
        self._changed, self._answered = changed, answered
        try:
            self._watch.start()
        except ReconcileError as error:
            log.warning("source_watch_failed", error=str(error), instead="it is polled every source.interval")
        self._thread.start()

    def load_last_good(self) -> None:
        """What was accepted before we started, without asking git."""
        try:
            self.snapshot = self.source.last_good()
        except ReconcileError as error:
            self._error = str(error)

    def end(self) -> None:
        """Cut short what is going on; `join` waits for it."""
        self._stop.set()
        self._ask.set()
        self.source.end()
        self._watch.close()

    def join(self, seconds: float) -> None:
        if self._thread.is_alive():
            self._thread.join(seconds)

    def wake(self) -> None:
        """Ask git now."""
        self._ask.set()

    def is_polling(self) -> bool:
        return self._polling.locked()

    def info(self, applied: str) -> RevisionInfo:
        """`applied`: the revision that all targets have reached, if it is one."""
        snapshot = self.snapshot
        return RevisionInfo(
            desired=snapshot.revision if snapshot else "",
            applied=applied,
            subject=snapshot.subject if snapshot else "",
            error=self._error,
            fetched_at=self._fetched_at,
            refused=self._refused,
            signer=snapshot.signer if snapshot else None,
        )

    def _follow(self) -> None:
        failures, is_first = 0, True
        while not self._stop.is_set():
            failures = 0 if self.poll() else failures + 1
            self._ask.wait(_pause(self._interval, failures, is_first=is_first))
            self._ask.clear()
            is_first = False

    def poll(self) -> bool:
        """Ask git once. A failure keeps the last good snapshot and says so."""
        with self._polling:
            began = time.monotonic()
            try:
                self._check_state()
                snapshot = self.source.poll()
            except ReconcileError as error:
                return self._note_error(error, began)
            except OSError as error:
                return self._note_error(pass_error_text(error), began)
            except Exception as error:
                log.exception("source_raised")
                return self._note_error(unexpected(error), began)
            self._metrics.observe_fetch(time.monotonic() - began, ok=True)
            self._recorder.recovered(snapshot.revision)
            self._recorder.verified(snapshot)
            changed = snapshot is not self.snapshot
            recovered = bool(self._error)
            self._error, self._refused, self._fetched_at, self.snapshot = "", None, time.time(), snapshot
        if changed or recovered:
            log.info("revision_fetched", revision=snapshot.revision, subject=snapshot.subject)
            self._changed()
            self._answered()
        return True

    def _note_error(self, error: Exception | str, began: float) -> bool:
        if self._stop.is_set():
            # What was going on was cut short.
            return False
        self._metrics.observe_fetch(time.monotonic() - began, ok=False)
        kept = self.snapshot.revision if self.snapshot else ""
        is_new = str(error) != self._error
        if is_new:
            log.error("source_failed", error=str(error), kept=kept or "nothing yet")
        self._recorder.failed(error, kept)
        self._error = str(error)
        if isinstance(error, RevisionRefused):
            self._refused = RefusedRevision(error.revision, str(error))
        if isinstance(error, Unverified) and error.revision == kept:
            # Who signed it is trusted no more. What it started is kept from what is on record, and nothing is added.
            self.snapshot, kept, self.has_failed = None, "", False
        is_first, self.has_failed = not self.has_failed, True
        if is_first and not kept:
            # What is on record is looked after without git as well.
            self._changed()
        if is_new:
            self._answered()
        return False


def _pause(interval: float, failures: int, *, is_first: bool = False) -> float:
    """Seconds until git is asked again. Not all hosts ask at once, though a thousand were started at one moment; after
    failures in a row it is asked sooner."""
    if failures:
        return backoff(failures, 2.0, interval)
    return interval * (random.uniform(0.0, 1.0) if is_first else random.uniform(0.95, 1.05))  # noqa: S311
