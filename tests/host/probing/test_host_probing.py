"""Background questions, with scripted answers: what is asked when, and what the answers add up to."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from reconciler.host.probing.probing import Probes, ProbeState, Subject, Topic
from reconciler.model import ReplicaId, Routed
from tests.support.world import SERVICE, eventually

# Most tests wait for what happens in the background.
pytestmark = pytest.mark.slow

FIRST = Subject(ReplicaId(SERVICE, "aaaaaaaa-0"), 20000, Topic.STARTING, started=1)
SECOND = replace(FIRST, id=ReplicaId(SERVICE, "aaaaaaaa-1"))


class Answers:
    """Answers what the test says, and counts."""

    def __init__(self) -> None:
        self.ready: tuple[bool, bool | None] = (False, None)
        self.healthy: bool | None = True
        self.running: tuple[Routed, int | None] = (Routed.DRAINING, 0)
        self.asked: list[tuple[str, ReplicaId]] = []
        self.stuck: set[ReplicaId] = set()
        self.go_on = threading.Event()
        self.thief = ""

    def _note(self, what: str, subject: Subject) -> None:
        self.asked.append((what, subject.id))
        if subject.id in self.stuck:
            self.go_on.wait(60)

    def stranger(self, subject: Subject) -> str:
        return self.thief

    def is_ready(self, subject: Subject) -> tuple[bool, bool | None]:
        self._note("ready", subject)
        return self.ready

    def is_healthy(self, subject: Subject) -> bool | None:
        self._note("healthy", subject)
        return self.healthy

    def in_flight(self, subject: Subject) -> tuple[Routed, int | None]:
        self._note("in flight", subject)
        return self.running

    def count(self, what: str) -> int:
        return sum(asked == what for asked, _ in self.asked)


@contextmanager
def probing() -> Iterator[tuple[Probes, Answers, threading.Semaphore]]:
    answers, wakes = Answers(), threading.Semaphore(0)
    probes = Probes(answers, wakes.release)
    try:
        yield probes, answers, wakes
    finally:
        probes.close()
        answers.go_on.set()


def test_replica_that_starts_is_asked_until_it_is_ready_and_that_wakes() -> None:
    with probing() as (probes, answers, wakes):
        probes.watch([FIRST])
        eventually(lambda: answers.count("ready") >= 3)
        assert probes.probe_state(FIRST.id) == ProbeState()
        assert not wakes.acquire(blocking=False)
        answers.ready = (True, True)
        assert wakes.acquire(timeout=30)
        assert probes.probe_state(FIRST.id) == ProbeState(ready=True, healthy=True)


@pytest.mark.slow
def test_of_many_replicas_that_serve_each_is_asked_less_often() -> None:
    with probing() as (probes, answers, _):
        many = [replace(FIRST, id=ReplicaId(SERVICE, f"aaaaaaaa-{n}"), topic=Topic.SERVING) for n in range(60)]
        probes.watch(many)
        eventually(lambda: answers.count("healthy") == len(many))
        time.sleep(1.2 * Topic.SERVING.value)
        assert answers.count("healthy") == len(many), "one of a few would have been asked again by now"


def test_one_slow_replica_keeps_no_other_waiting() -> None:
    with probing() as (probes, answers, wakes):
        answers.stuck = {FIRST.id}
        answers.ready = (True, True)
        probes.watch([FIRST, SECOND])
        assert wakes.acquire(timeout=30)
        assert probes.probe_state(SECOND.id).ready
        assert not probes.probe_state(FIRST.id).ready


def test_death_of_an_engine_that_serves_wakes() -> None:
    with probing() as (probes, answers, wakes):
        probes.watch([replace(FIRST, topic=Topic.SERVING)])
        assert wakes.acquire(timeout=30)
        answers.healthy = False
        assert wakes.acquire(timeout=30)
        assert probes.probe_state(FIRST.id) == ProbeState(ready=True, healthy=False)


def test_drain_is_over_after_two_zeros_that_were_asked_for_separately() -> None:
    with probing() as (probes, answers, wakes):
        answers.running = (Routed.DRAINING, 3)
        probes.watch([replace(FIRST, topic=Topic.DRAINING)])
        eventually(lambda: probes.probe_state(FIRST.id).in_flight == 3)
        assert probes.probe_state(FIRST.id).quiet_samples == 0
        asked = answers.count("in flight")
        answers.running = (Routed.DRAINING, 0)
        assert wakes.acquire(timeout=30)
        assert probes.probe_state(FIRST.id).quiet_samples == 2
        assert answers.count("in flight") >= asked + 2


@pytest.mark.slow
def test_zero_counts_neither_while_unknown_nor_while_new_requests_may_come() -> None:
    with probing() as (probes, answers, _):
        probes.watch([replace(FIRST, topic=Topic.DRAINING)])
        eventually(lambda: probes.probe_state(FIRST.id).quiet_samples > 2)
        for running in ((Routed.DRAINING, None), (Routed.ACTIVE, 0), (Routed.UNKNOWN, 0), (Routed.DRAINING, 1)):
            answers.running = running
            eventually(lambda: probes.probe_state(FIRST.id).quiet_samples == 0)
            eventually(lambda expected=running[1]: probes.probe_state(FIRST.id).in_flight == expected)
            answers.running = (Routed.DRAINING, 0)
            eventually(lambda: probes.probe_state(FIRST.id).quiet_samples > 0)


def test_answer_to_a_question_of_the_stage_before_is_dropped() -> None:
    with probing() as (probes, answers, _):
        answers.stuck = {FIRST.id}
        answers.ready = (False, False)
        probes.watch([FIRST])
        eventually(lambda: answers.count("ready") == 1)
        first_may_go_on, answers.go_on = answers.go_on, threading.Event()
        probes.watch([replace(FIRST, topic=Topic.SERVING)])
        first_may_go_on.set()
        eventually(lambda: answers.count("healthy") == 1)
        assert probes.probe_state(FIRST.id) == ProbeState()
        answers.go_on.set()
        eventually(lambda: probes.probe_state(FIRST.id) == ProbeState(ready=True, healthy=True))


def test_next_process_of_the_same_name_begins_unknown() -> None:
    with probing() as (probes, answers, wakes):
        answers.ready = (True, True)
        probes.watch([FIRST])
        assert wakes.acquire(timeout=30)
        answers.stuck = {FIRST.id}
        probes.watch([replace(FIRST, started=2)])
        assert probes.probe_state(FIRST.id) == ProbeState()


def test_replica_that_is_gone_is_not_asked_any_more() -> None:
    with probing() as (probes, answers, _):
        probes.watch([FIRST, SECOND])
        eventually(lambda: {asked for _, asked in answers.asked} == {FIRST.id, SECOND.id})
        probes.watch([SECOND])
        assert probes.probe_state(FIRST.id) == ProbeState()
        answers.asked.clear()
        eventually(lambda: len(answers.asked) > 3)
        assert [asked for _, asked in answers.asked].count(FIRST.id) <= 1
    eventually(lambda: not [t for t in threading.enumerate() if t.name.startswith("probe ")])


def test_replica_without_a_thread_to_ask_it_is_asked_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass goes on, and looks after the others."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with probing() as (probes, answers, _):
        probes.watch([FIRST])
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            probes.watch([replace(FIRST, topic=Topic.SERVING), SECOND])
        eventually(lambda: answers.count("healthy"))
        assert probes.probe_state(SECOND.id) == ProbeState()
        probes.watch([FIRST, SECOND])
        eventually(lambda: ("ready", SECOND.id) in answers.asked)


def test_bug_in_a_question_ends_no_thread() -> None:
    with probing() as (probes, answers, wakes):
        answers.ready = None  # type: ignore[assignment]
        probes.watch([FIRST])
        eventually(lambda: answers.count("ready") >= 2)
        assert probes.probe_state(FIRST.id) == ProbeState()
        answers.ready = (True, True)
        assert wakes.acquire(timeout=30)


@pytest.mark.slow
def test_one_bad_word_about_its_health_condemns_nobody() -> None:
    with probing() as (probes, answers, _):
        once = [True, False, True, True]
        answers.is_healthy = lambda subject: once.pop(0) if once else True  # type: ignore[method-assign]
        seen: set[bool | None] = set()
        probes.watch([replace(FIRST, topic=Topic.SERVING)])
        eventually(lambda: seen.add(probes.probe_state(FIRST.id).healthy) or not once)
        assert False not in seen
        answers.is_healthy = lambda subject: False  # type: ignore[method-assign]
        eventually(lambda: probes.probe_state(FIRST.id).healthy is False)


def test_what_was_quiet_before_it_served_again_counts_no_more() -> None:
    with probing() as (probes, answers, _):
        draining = replace(FIRST, topic=Topic.DRAINING)
        probes.watch([draining])
        eventually(lambda: probes.probe_state(FIRST.id).quiet_samples >= 2)
        answers.stuck.add(FIRST.id)
        probes.watch([replace(FIRST, topic=Topic.SERVING)])
        probes.watch([draining])
        assert probes.probe_state(FIRST.id).quiet_samples == 0
