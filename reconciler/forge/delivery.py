"""From the outbox to those who are told: a thread per destination, so that one that hangs delays no other.

A destination that is away, busy or refuses our login is asked again with one message at a time, after a pause that
grows; what it will never take is dropped. Each is asked at its pace: GitHub wants at most 80 requests a minute that
create something.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping
from typing import TypeAlias

import structlog

from reconciler.errors import ReconcileError, Retryable
from reconciler.forge.commit_status import context_of
from reconciler.forge.fleet import LOOK_AGAIN, LOOK_SELDOM, PostDecision, step
from reconciler.forge.http import ForgeBusy
from reconciler.forge.messages import CommitStatus, Message, Notification
from reconciler.forge.outbox import Outbox, PendingMessage
from reconciler.forge.port import Forge
from reconciler.forge.pull_requests import send
from reconciler.forge.receiver import Receiver
from reconciler.model.backoff import backoff

log = structlog.get_logger()

Send: TypeAlias = Callable[[Message], None]


class HeldBack(Retryable):
    """Not to be said now, though the other side would take it."""


PER_SECOND, AT_ONCE = 1.0, 20
"""60 a minute in the long run, and a burst for a commit that concerns many services."""
_FIRST_PAUSE, _LONGEST_PAUSE = 2.0, 300.0
_LONGEST_BUSY = 3600.0
_IDLE = 600.0


class Delivery:
    """All destinations. `sends`: how each is told; the functions may take as long as they like."""

    def __init__(self, outbox: Outbox, sends: Mapping[str, Send], give_up_after: float) -> None:
        self._outbox = outbox
        self._carriers = {name: Carrier(name, outbox, send, give_up_after) for name, send in sends.items()}

    def start(self) -> None:
        for carrier in self._carriers.values():
            carrier.start()

    def wake(self) -> None:
        """There may be something new."""
        for carrier in self._carriers.values():
            carrier.wake()

    def stop(self) -> None:
        """What is being sent is not waited for: it waits in the outbox until it is known to be delivered."""
        for carrier in self._carriers.values():
            carrier.end()
        ends = time.monotonic() + 1.0
        for carrier in self._carriers.values():
            carrier.join(max(0.0, ends - time.monotonic()))

    def problems(self) -> dict[str, str]:
        """By destination: why it takes nothing now; empty where it does."""
        return {name: carrier.problem for name, carrier in self._carriers.items()}


class Carrier:
    """One destination."""

    def __init__(self, name: str, outbox: Outbox, send: Send, give_up_after: float) -> None:
        self.problem = ""
        self._name, self._outbox, self._send, self._give_up_after = name, outbox, send, give_up_after
        self._stop = threading.Event()
        self._bell = threading.Event()
        # A daemon thread: a request that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name=f"deliver {name}", daemon=True)
        self._failures = 0
        self._held_until, self._held_for = 0.0, 0.0
        self._pace = Pace(PER_SECOND, AT_ONCE)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        self._bell.set()

    def end(self) -> None:
        self._stop.set()
        self._bell.set()

    def join(self, seconds: float) -> None:
        if self._thread.is_alive():
            self._thread.join(seconds)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                pause = self.turn(time.time())
            except ReconcileError as error:
                if self._stop.is_set():
                    return
                # The disk; what was delivered and could not be marked is sent once more.
                pause = self._fail(error, time.time())
            except Exception:
                log.exception("delivery_raised", destination=self._name)
                pause = self._fail(None, time.time())
            self._bell.wait(pause)
            self._bell.clear()

    def turn(self, now: float) -> float:
        """Deliver what is due, as far as the other side wants it now. Returns seconds until the next turn."""
        # The clock may have been ahead when that was set.
        is_held = self._held_until - self._held_for <= now < self._held_until
        rows = [] if is_held else self._outbox.due(self._name, now)
        # As long as it does not work, one is enough to see whether it does again.
        for row in rows[:1] if self._failures else rows:
            if self._stop.is_set():
                return 0.0
            if (pause := self._pace.take(time.monotonic())) > 0:
                return pause
            if not self._deliver(row):
                self._give_up(now)
                break
        return self._pause(time.time())

    def _give_up(self, now: float) -> None:
        """Only what was tried in vain just now: a daemon that was off for days delivers what it still has."""
        if given_up := self._outbox.give_up(self._name, now - self._give_up_after, now):
            log.error("delivery_given_up", messages=given_up, destination=self._name, error=self.problem)

    def _deliver(self, row: PendingMessage) -> bool:
        """False: no more for now."""
        try:
            self._send(row.message)
        except HeldBack as error:
            pause = backoff(row.attempts + 1, LOOK_AGAIN, LOOK_SELDOM) * random.uniform(0.5, 1.0)  # noqa: S311
            self._outbox.postpone(row, str(error), time.time(), pause)
            return True
        except Retryable as error:
            if self._stop.is_set():
                return False
            self._outbox.postpone(row, str(error), time.time())
            self._fail(error, time.time())
            return False
        except ReconcileError as error:
            log.error("delivery_refused", destination=self._name, key=row.key, error=str(error))
            self._outbox.drop(row, str(error), time.time())
            return True
        except Exception as error:
            # It must not keep those behind it.
            log.exception("delivery_raised", destination=self._name, key=row.key)
            self._outbox.postpone(row, f"a bug; see the log: {type(error).__name__}", time.time())
            self._fail(None, time.time())
            return False
        self._outbox.delivered(row)
        if self.problem:
            log.info("delivery_recovered", destination=self._name)
        self._failures, self.problem = 0, ""
        return True

    def _fail(self, error: ReconcileError | None, now: float) -> float:
        self._failures += 1
        text = str(error) if error else "a bug; see the log"
        if text != self.problem:
            log.warning("delivery_failed", destination=self._name, error=text, meanwhile="it waits in the outbox")
        self.problem = text
        pause = backoff(self._failures, _FIRST_PAUSE, _LONGEST_PAUSE) * random.uniform(0.75, 1.25)  # noqa: S311
        if isinstance(error, ForgeBusy):
            pause = _spread(error.retry_after, self._failures)
        self._held_until, self._held_for = now + pause, pause
        return pause

    def _pause(self, now: float) -> float:
        at = self._outbox.next_at(self._name)
        if at is None:
            # Whatever it was, it keeps nothing from delivery.
            self._failures, self.problem = 0, ""
            return _IDLE
        return min(_IDLE, max(0.05, max(at, self._held_until) - now))


def _spread(retry_after: float, failures: int) -> float:
    """Seconds. A thousand hosts may share one login: who is refused again and again comes back ever less often, and
    not when all others do. By `tests/bench/bench_fleet.py` they so stay below GitHub's limit of requests."""
    most = max(1.1, 4.0 ** min(failures - 1, 3))
    return min(retry_after * random.uniform(1.0, most), max(retry_after, _LONGEST_BUSY))  # noqa: S311


class Pace:
    """At most `burst` at once, and `per_second` in the long run."""

    def __init__(self, per_second: float, burst: int) -> None:
        self._per_second, self._burst = per_second, burst
        self._full_at = 0.0

    def take(self, now: float) -> float:
        """Take one: 0. Otherwise seconds until there is one again. `now`: of a clock that never goes back."""
        pause = max(now, self._full_at) + 1 / self._per_second - now - self._burst / self._per_second
        if pause > 1e-9:
            return pause
        self._full_at = max(now, self._full_at) + 1 / self._per_second
        return 0.0


def to_forge(forge: Forge) -> Send:
    """How a forge is told."""
    return lambda message: send(forge, [message])


def to_forge_of_fleet(forge: Forge, group: str, is_past: Callable[[str], bool]) -> Send:
    """How a forge is told by one of many hosts. `is_past`: is another revision than this one followed now?

    Of a past one nothing is held back: each commit that fails everywhere would be asked about without end.
    """

    def tell(message: Message) -> None:
        if isinstance(message, CommitStatus) and message.context == context_of(group):
            now = step(message, forge.standing(message.revision, message.context))
            if now is PostDecision.WAIT and not is_past(message.revision):
                raise HeldBack("the failure of another host stands there")
            if now is not PostDecision.POST:
                return
        send(forge, [message])

    return tell


def to_receiver(receiver: Receiver) -> Send:
    """How one is told who gets notifications."""

    def tell(message: Message) -> None:
        if isinstance(message, Notification):
            receiver.send(message)

    return tell
