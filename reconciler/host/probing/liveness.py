"""Does a replica that serves still do anything? Silence is a state of its own: in doubt first, hung much later.

Two things are watched: whether its server answers at all, and whether its engine makes progress. A busy engine is left
alone as long as its counters move, and one whose processes compute gets ten times the time: a long prefill and a queue
behind a long request are not a hang. An idle one is asked for one token now and then. Only time counts in which we ran
ourselves and something else on this host answered: a host that was paused as a whole has no hung replicas. Only one
whose socket was deleted is beyond doubt: no request can reach it any more.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from reconciler.model import Silence

if TYPE_CHECKING:
    from reconciler.engines.probe import Vitals
    from reconciler.host.probing.probing import Subject

# Of `timeout`: from here on others get its requests.
_DOUBT = 0.25
# The longest time between two looks that counts: more than that, and we slept ourselves.
_LONGEST_STEP = 15.0
# Seconds between two looks at the counters of an engine that nothing is wrong with.
_BETWEEN_LOOKS = 10.0
# Of `timeout`, at most, for a replica whose socket is gone: it does not come back by itself.
_LONGEST_WITHOUT_SOCKET = 10.0
# What computes may take so many times longer, and computes if it has at least this share of one core.
_WHILE_WORKING = 10.0
_WORKING_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class LivenessLimits:
    """Seconds: how often an idle engine is probed for a token (0: never), how long silence may last (0: forever)."""

    interval: float = 60.0
    timeout: float = 60.0


class LivenessQuestions(Protocol):
    """What can be probed in addition to health. Nothing raises."""

    def vitals(self, subject: Subject) -> Vitals | None:
        """Its counters; None where it has none."""

    def answers(self, subject: Subject, timeout: float) -> bool:
        """Request one token, and wait: is there any response?"""

    def has_lost_socket(self, subject: Subject) -> bool:
        """Is its socket deleted? Then no request reaches it, however much it computes."""

    def is_paused(self, subject: Subject) -> bool:
        """Is its scheduler paused on purpose?"""

    def is_waited_for(self, subject: Subject) -> bool:
        """Does the proxy wait for it?"""

    def cpu_seconds(self, subject: Subject, *, of_server: bool) -> float:
        """What its server, or the processes below that, have computed so far."""


class Witness:
    """When something on this host last responded."""

    def __init__(self) -> None:
        self._last: tuple[object, float] = (None, float("-inf"))
        self._before: tuple[object, float] = self._last

    def note(self, who: object, now: float) -> None:
        if self._last[0] != who:
            self._before = self._last
        self._last = (who, now)

    def others_since(self, who: object, moment: float) -> bool:
        """Did any other replica respond since about this moment? Not all are probed equally often."""
        found = self._before if self._last[0] == who else self._last
        return found[1] >= moment - _BETWEEN_LOOKS


class ReplicaLiveness:
    """What is known about one replica."""

    def __init__(
        self,
        questions: LivenessQuestions,
        limits: LivenessLimits,
        witness: Witness,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._questions = questions
        self._limits = limits
        self._witness = witness
        self._clock = clock
        self._looked_at = self._moved_at = self._counted_at = clock()
        self._counters: tuple[float, ...] | None = None
        self._tells = self._was_busy = False
        self._token: _Token | None = None
        self._mute: _Stretch | None = None
        self._without_socket: float | None = None
        self._stuck: _Stretch | None = None

    @property
    def in_doubt(self) -> bool:
        """Should it be probed more often?"""
        return self._mute is not None or self._stuck is not None

    def look(self, subject: Subject, heard: bool, *, serves: bool = True) -> tuple[Silence, str]:
        """After each probe: `heard` is whether its server responded. Returns what that means, and why."""
        before, now = self._looked_at, self._clock()
        step, self._looked_at = min(now - before, _LONGEST_STEP), now
        if not self._limits.timeout:
            return Silence.NONE, ""
        self._note_server(subject, heard, before, step)
        if heard and serves:
            self._note_engine(subject, step)
        return self._judge(subject)

    # ------------------------------------------------------------ what is noted

    def _note_server(self, subject: Subject, heard: bool, before: float, step: float) -> None:
        if heard:
            self._witness.note(subject.id, self._looked_at)
            self._mute = self._without_socket = None
            return
        self._note_socket(subject, step)
        if self._mute is None:
            self._mute = _Stretch(self._questions.cpu_seconds(subject, of_server=True))
        elif self._witness.others_since(subject.id, before):
            self._mute.seconds += step

    def _note_socket(self, subject: Subject, step: float) -> None:
        """A host that was paused has its sockets all the same, so it does not matter who else answered."""
        if not self._questions.has_lost_socket(subject):
            self._without_socket = None
        else:
            self._without_socket = 0.0 if self._without_socket is None else self._without_socket + step

    def _note_engine(self, subject: Subject, step: float) -> None:
        now = self._looked_at
        if self._token is not None and self._token.over:
            if self._token.answered:
                self._note_progress()
            elif self._token.was_not_asked:
                self._stuck = None
            self._token = None
        busy = False
        if self.in_doubt or (now - self._counted_at >= _BETWEEN_LOOKS and self._is_worth_a_look(subject)):
            self._counted_at = now
            busy = self._count(subject)
        if self._token is None and self._is_token_due(subject, busy):
            self._token = _Token(self._questions, subject, self._limits.timeout * _WHILE_WORKING)
        if self._stuck is not None:
            self._stuck.seconds += step
        elif self._token is not None or (busy and not self._limits.interval):
            self._stuck = _Stretch(self._questions.cpu_seconds(subject, of_server=False))

    def _is_worth_a_look(self, subject: Subject) -> bool:
        """An engine that was idle when it was last looked at is let be until it is to be asked for a token."""
        idle = self._looked_at - self._moved_at
        if self._counters is None or self._was_busy or not self._limits.interval or idle >= self._limits.interval:
            return True
        return self._questions.is_waited_for(subject)

    def _count(self, subject: Subject) -> bool:
        """Look at its counters. Has it requests, and none of its counters moved?"""
        vitals = self._questions.vitals(subject)
        if vitals is None:
            return False
        before, self._counters = self._counters, vitals.counters
        self._tells, self._was_busy = vitals.tells, vitals.busy > 0
        if vitals.asleep or before not in (None, vitals.counters):
            self._note_progress()
            return False
        return vitals.busy > 0 and before is not None

    def _is_token_due(self, subject: Subject, busy: bool) -> bool:
        """Now and then while it is idle; soon if it has requests that make no progress."""
        idle = self._looked_at - self._moved_at
        if not self._limits.interval or idle < min(self._limits.interval, _BETWEEN_LOOKS):
            return False
        return busy or idle >= self._limits.interval or self._questions.is_waited_for(subject)

    def _note_progress(self) -> None:
        self._moved_at, self._stuck = self._looked_at, None

    # ------------------------------------------------------------ what it means

    def _judge(self, subject: Subject) -> tuple[Silence, str]:
        if self._without_socket:
            return self._judge_without_socket(subject, self._without_socket)
        stretch = self._mute or self._stuck
        doubt = self._limits.timeout * _DOUBT
        if stretch is None or stretch.seconds < doubt:
            return Silence.NONE, ""
        if self._mute is None and self._questions.is_paused(subject):
            self._note_progress()
            return Silence.NONE, ""
        if self._may_serve_others(subject, stretch):
            return Silence.NONE, ""
        factor = _WHILE_WORKING if self._may_work(subject, stretch) else 1.0
        if stretch.seconds < doubt * factor:
            return Silence.NONE, ""
        what = "its server has not responded" if self._mute else "its engine has made no progress and not responded"
        hung = stretch.seconds >= self._limits.timeout * factor
        return Silence.HUNG if hung else Silence.SILENT, f"{what} for {stretch.seconds:.0f} s"

    def _judge_without_socket(self, subject: Subject, seconds: float) -> tuple[Silence, str]:
        longest = min(self._limits.timeout, _LONGEST_WITHOUT_SOCKET)
        if seconds < longest * _DOUBT:
            return Silence.NONE, ""
        why = f"its socket {subject.address} has been missing for {seconds:.0f} s, so that no request reaches it"
        return Silence.HUNG if seconds >= longest else Silence.SILENT, why

    def _may_serve_others(self, subject: Subject, stretch: _Stretch) -> bool:
        """Without counters this is unknown: its clients may fill it for hours, and our probe waits in its queue."""
        is_blind = self._mute is None and not self._tells
        return is_blind and self._computes(subject, stretch) and self._questions.is_waited_for(subject)

    def _may_work(self, subject: Subject, stretch: _Stretch) -> bool:
        """Does it compute? Of one without counters we cannot be sure."""
        return (self._mute is None and not self._tells) or self._computes(subject, stretch)

    def _computes(self, subject: Subject, stretch: _Stretch) -> bool:
        spent = self._questions.cpu_seconds(subject, of_server=self._mute is not None) - stretch.cpu_before
        return spent >= _WORKING_SHARE * stretch.seconds


@dataclass(slots=True)
class _Stretch:
    """A time without a response, and the CPU time before it."""

    cpu_before: float
    seconds: float = 0.0


class _Token:
    """A question that may wait for long, on a thread of its own."""

    def __init__(self, questions: LivenessQuestions, subject: Subject, timeout: float) -> None:
        self.over = self.answered = self.was_not_asked = False
        arguments = (questions, subject, timeout)
        thread = threading.Thread(target=self._run, args=arguments, name=f"token {subject.id}", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            # No thread is left to us (TasksMax).
            self.over = self.was_not_asked = True

    def _run(self, questions: LivenessQuestions, subject: Subject, timeout: float) -> None:
        try:
            self.answered = questions.answers(subject, timeout)
        except OSError:
            # It is the daemon that is out of resources.
            self.was_not_asked = True
        finally:
            self.over = True
