"""Asking replicas how they are, in the background, so that a pass never waits for one.

Every replica that lives has one thread that asks it in turn: is it ready, while it starts; is it healthy, while it
serves; what still runs, while it drains.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Protocol

import structlog

from reconciler.engines.replica_connection import Guard
from reconciler.fault_isolation import frames
from reconciler.host.probing.liveness import LivenessLimits, LivenessQuestions, ReplicaLiveness, Witness
from reconciler.model import Address, ReplicaId, Routed, Silence
from reconciler.system.files import error_text

_log = structlog.get_logger()


# So many of those that serve are asked in a second: one that ends tells so by itself, and an idle host stays idle.
_LOOKS_PER_SECOND = 5.0


class Topic(Enum):
    """The current probe of a replica, and the least seconds between two of them."""

    STARTING = 0.2
    SERVING = 2.0
    DRAINING = 0.25


@dataclass(frozen=True, slots=True)
class Subject:
    """One living replica and how to talk to it. `started` tells one process of the same name from the next.

    `grpc`: it speaks gRPC, and no HTTP/1. `guard` raises Stranger while another process listens at its address; None:
    no other process can.
    """

    id: ReplicaId
    address: Address
    topic: Topic
    started: object = None
    model: str = ""
    tls: bool = False
    grpc: bool = False
    api_key: str | None = field(default=None, repr=False)
    guard: Guard | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class ProbeState:
    """What is known of one replica so far. `quiet_samples` counts zeros in a row, each from a question of its own.

    `stranger` says who else listens at its address.
    """

    ready: bool = False
    healthy: bool | None = None
    in_flight: int | None = None
    quiet_samples: int = 0
    most_in_flight: int = 0
    silence: Silence = Silence.NONE
    silent_why: str = field(default="", compare=False)
    stranger: str = ""


class Questions(LivenessQuestions, Protocol):
    """The probes. Without a response the result is None: unknown, never zero, and nothing raises for a dead server."""

    def stranger(self, subject: Subject) -> str:
        """Which other process listens at its address; empty: none that is known."""

    def is_ready(self, subject: Subject) -> tuple[bool, bool | None]:
        """Ready, by a real completion; and healthy."""

    def is_healthy(self, subject: Subject) -> bool | None:
        """A cheap check."""

    def in_flight(self, subject: Subject) -> tuple[Routed, int | None]:
        """How the proxy treats it, and what runs in proxy and engine; None if either is unknown."""


class Probes:
    """One thread for each replica that is watched."""

    def __init__(
        self,
        questions: Questions,
        wake: Callable[[], None],
        limits: LivenessLimits = LivenessLimits(),  # noqa: B008
        witness: Witness | None = None,
    ) -> None:
        self._questions = questions
        self._wake = wake
        self._limits = limits
        self._witness = witness or Witness()
        self._probes: dict[ReplicaId, _Probe] = {}
        self._serving = 0
        self._lock = threading.Lock()

    def watch(self, subjects: Iterable[Subject]) -> None:
        """Watch these replicas, and no others any more."""
        desired = {subject.id: subject for subject in subjects}
        self._serving = sum(subject.topic is Topic.SERVING for subject in desired.values())
        with self._lock:
            for replica in self._probes.keys() - desired.keys():
                self._probes.pop(replica).close()
            for replica, subject in desired.items():
                probe = self._probes.get(replica)
                if probe is not None and probe.subject.started != subject.started:
                    probe.close()
                    probe = None
                if probe is not None:
                    probe.turn_to(subject)
                    continue
                self._probes.pop(replica, None)
                liveness = ReplicaLiveness(self._questions, self._limits, self._witness)
                try:
                    self._probes[replica] = _Probe(subject, self._questions, self._wake, self._pause, liveness)
                except RuntimeError as error:
                    # No thread is left to us (TasksMax): the next pass tries again, and the others go on.
                    _log.warning("probe_not_started", replica=str(replica), reason=str(error))

    @property
    def watches(self) -> bool:
        """Is there any replica to probe?"""
        return bool(self._probes)

    def probe_state(self, replica: ReplicaId) -> ProbeState:
        """What is known so far; all unknown for a replica that is not watched."""
        probe = self._probes.get(replica)
        return probe.probe_state if probe else ProbeState()

    def close(self) -> None:
        """End the threads, without waiting for slow answers."""
        self.watch(())

    def _pause(self, topic: Topic) -> float:
        least: float = topic.value
        return max(least, self._serving / _LOOKS_PER_SECOND) if topic is Topic.SERVING else least


class _Probe:
    def __init__(
        self,
        subject: Subject,
        questions: Questions,
        wake: Callable[[], None],
        pause: Callable[[Topic], float],
        liveness: ReplicaLiveness,
    ) -> None:
        self.subject = subject
        self.probe_state = ProbeState()
        self._liveness = liveness
        self._questions = questions
        self._wake = wake
        self._pause = pause
        self._closed = False
        self._news = threading.Event()
        threading.Thread(target=self._run, name=f"probe {subject.id}", daemon=True).start()

    def turn_to(self, subject: Subject) -> None:
        if subject != self.subject:
            if subject.topic is not self.subject.topic:
                # What was counted about another topic counts nothing: the proxy may have sent something since.
                self.probe_state = replace(self.probe_state, in_flight=None, quiet_samples=0, most_in_flight=0)
            self.subject = subject
            self._news.set()

    def close(self) -> None:
        self._closed = True
        self._news.set()

    def _run(self) -> None:
        in_doubt, raised = False, ""
        while not self._closed:
            subject = self.subject
            before = self.probe_state
            try:
                now = self._with_silence(subject, _ask(self._questions, subject, before))
            except OSError as error:
                # We could not ask, which says nothing about the replica.
                _log.warning("probe_failed", replica=str(subject.id), reason=error_text(error))
                now = replace(before, silence=Silence.NONE, silent_why="")
            except Exception as error:
                # A thread that dies of a bug would leave its replica waiting forever, in silence.
                if raised != (raised := frames(error)):
                    _log.exception("probe_raised", replica=str(subject.id))
                now = ProbeState()
            # A replica that counts as dead is stopped with all its requests: one result is not enough for that.
            in_doubt = now.healthy is False and before.healthy is not False and not in_doubt
            if in_doubt:
                now = replace(now, healthy=before.healthy)
            # An answer to a question that is not asked any more would mix two stages up.
            if self.subject is subject and not self._closed:
                self.probe_state = now
                if _is_news(before, now):
                    self._wake()
            self._news.wait(Topic.STARTING.value if in_doubt else self._rest(subject.topic))
            self._news.clear()

    def _with_silence(self, subject: Subject, found: ProbeState) -> ProbeState:
        """What is still starting has its own time to answer."""
        if subject.topic is Topic.STARTING or found.stranger:
            return found
        serves = subject.topic is Topic.SERVING
        heard = found.healthy is not None if serves else found.in_flight is not None
        if not heard and not serves:
            # It may be the proxy's result that is missing.
            heard = self._questions.is_healthy(subject) is not None
        silence, why = self._liveness.look(subject, heard, serves=serves)
        return replace(found, silence=silence, silent_why=why)

    def _rest(self, topic: Topic) -> float:
        return topic.value if self._liveness.in_doubt else self._pause(topic)


def _ask(questions: Questions, subject: Subject, before: ProbeState) -> ProbeState:
    if stranger := questions.stranger(subject):
        # It cannot listen there any more, and a stranger is asked nothing.
        return ProbeState(healthy=False, stranger=stranger)
    match subject.topic:
        case Topic.STARTING:
            ready, healthy = questions.is_ready(subject)
            return ProbeState(ready, healthy)
        case Topic.SERVING:
            return ProbeState(ready=True, healthy=questions.is_healthy(subject))
        case Topic.DRAINING:
            return _sample(questions, subject, before)


def _sample(questions: Questions, subject: Subject, before: ProbeState) -> ProbeState:
    routed, running = questions.in_flight(subject)
    # While the proxy may still send something new, a zero means little.
    is_quiet = running == 0 and routed in (Routed.DRAINING, Routed.ABSENT)
    quiet = before.quiet_samples + 1 if is_quiet else 0
    most = max(before.most_in_flight, running or 0)
    return replace(before, in_flight=running, quiet_samples=quiet, most_in_flight=most)


def _is_news(before: ProbeState, now: ProbeState) -> bool:
    """Does this answer allow a step that the one before did not?"""
    return (
        (now.ready and not before.ready)
        or now.healthy != before.healthy
        or now.quiet_samples == 2
        or now.silence is not before.silence
    )
