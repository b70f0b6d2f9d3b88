"""When a replica counts as silent and as hung: scripted answers, and a clock that the test turns."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest

from reconciler.engines.probe import Vitals, read_vitals
from reconciler.host.probing.engine_probes import EngineProbes
from reconciler.host.probing.liveness import LivenessLimits, ReplicaLiveness, Witness
from reconciler.host.probing.probing import Subject, Topic
from reconciler.model import ReplicaId, Silence
from tests.support.world import SERVICE, eventually

SUBJECT = Subject(ReplicaId(SERVICE, "aaaaaaaa-0"), 20000, Topic.SERVING, started=1)
LIMITS = LivenessLimits(interval=60, timeout=60)


@dataclass
class World:
    """One replica that is probed every 2 s; `others` respond at the same time."""

    limits: LivenessLimits = LIMITS
    now: float = 1000.0
    heard: bool = True
    others: bool = True
    vitals_now: Vitals | None = field(default_factory=lambda: Vitals(0, (0.0,)))
    cpu: float = 0.0  # seconds computed per second
    paused: bool = False
    awaited: bool = False
    tokens: int = 0
    token_comes: bool = True
    has_socket: bool = True
    seen: list[Silence] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.witness = Witness()
        self.stuck = threading.Event()
        self.liveness = ReplicaLiveness(self, self.limits, self.witness, lambda: self.now)

    def vitals(self, subject: Subject) -> Vitals | None:
        return self.vitals_now

    def answers(self, subject: Subject, timeout: float) -> bool:
        self.tokens += 1
        if not self.token_comes:
            self.stuck.wait(60)
        return self.token_comes

    def has_lost_socket(self, subject: Subject) -> bool:
        return not self.has_socket

    def is_paused(self, subject: Subject) -> bool:
        return self.paused

    def is_waited_for(self, subject: Subject) -> bool:
        return self.awaited

    def cpu_seconds(self, subject: Subject, *, of_server: bool) -> float:
        return self.cpu * self.now

    def _is_asked(self) -> bool:
        token = self.liveness._token
        return token is None or token.over or (self.tokens > 0 and not self.token_comes)

    def run(self, seconds: float, step: float = 2.0, *, serves: bool = True) -> Silence:
        for _ in range(int(seconds / step)):
            self.now += step
            if self.others:
                self.witness.note("proxy", self.now)
            silence, self.why = self.liveness.look(SUBJECT, self.heard, serves=serves)
            if self.liveness._token:
                # It is asked on a thread of its own.
                eventually(self._is_asked)
            self.seen.append(silence)
        return silence


@pytest.fixture
def make() -> Iterator[type[World]]:
    made: list[World] = []

    def build(**more: object) -> World:
        made.append(World(**more))  # type: ignore[arg-type]
        return made[-1]

    yield build  # type: ignore[misc]
    for world in made:
        world.stuck.set()


def test_server_that_answers_nothing_is_in_doubt_first_and_hung_later(make):
    world = make(heard=False)
    assert world.run(14) is Silence.NONE
    assert world.run(6) is Silence.SILENT
    assert "server has not responded for" in world.why
    assert world.run(38) is Silence.SILENT
    assert world.run(8) is Silence.HUNG


def test_replica_without_its_socket_is_hung_after_seconds(make):
    world = make(heard=False, has_socket=False, others=False, cpu=1.0)
    assert world.run(4) is Silence.NONE
    assert world.run(6) is Silence.SILENT
    assert "its socket" in world.why
    assert world.run(4) is Silence.HUNG


def test_socket_that_is_back_in_time_ends_silence(make):
    world = make(heard=False, has_socket=False)
    world.run(8)
    world.has_socket = True
    assert world.run(4) is Silence.NONE
    world.has_socket = False
    assert world.run(4) is Silence.NONE


def test_missing_socket_counts_as_any_silence_where_that_is_short(make):
    world = make(limits=LivenessLimits(interval=60, timeout=4), heard=False, has_socket=False)
    assert world.run(6) is Silence.HUNG
    assert make(limits=LivenessLimits(timeout=0), heard=False, has_socket=False).run(1000) is Silence.NONE


def test_one_answer_ends_silence(make):
    world = make(heard=False)
    world.run(40)
    world.heard = True
    assert world.run(2) is Silence.NONE
    world.heard = False
    assert world.run(14) is Silence.NONE


def test_host_paused_as_a_whole_has_no_hung_replica(make):
    world = make(heard=False, others=False)
    assert world.run(1000) is Silence.NONE
    world.others = True
    world.heard = True
    assert world.run(2) is Silence.NONE


def test_time_that_the_daemon_slept_does_not_count(make):
    world = make(heard=False)
    world.run(4)
    assert world.run(3600, step=3600) is not Silence.HUNG


def test_idle_engine_is_asked_rarely_and_its_answer_is_life(make):
    world = make()
    assert world.run(600) is Silence.NONE
    assert 8 <= world.tokens <= 10


def test_idle_engine_that_gives_no_token_is_hung(make):
    world = make(token_comes=False)
    assert world.run(60 + 12) is Silence.NONE
    assert world.run(10) is Silence.SILENT
    assert "has made no progress" in world.why
    assert world.run(50) is Silence.HUNG
    assert world.tokens == 1


def test_engine_that_the_proxy_waits_for_is_asked_at_once(make):
    world = make(token_comes=False, awaited=True)
    assert world.run(90) is Silence.HUNG


def test_busy_engine_whose_counters_move_is_never_asked(make):
    world = make(token_comes=False)
    for n in range(300):
        world.vitals_now = Vitals(9, (float(n),))
        assert world.run(4) is Silence.NONE
    assert world.tokens == 0


def test_queue_behind_a_long_request_is_no_hang(make):
    world = make(token_comes=False)
    world.run(62)
    for n in range(300):
        world.vitals_now = Vitals(2, (float(n),))
        world.run(2)
    assert set(world.seen) == {Silence.NONE}


def test_engine_with_requests_and_no_progress_is_hung_even_without_tokens(make):
    world = make(limits=LivenessLimits(interval=0, timeout=60), vitals_now=Vitals(3, (7.0,)))
    assert world.run(24) is Silence.NONE
    assert world.run(12) is Silence.SILENT
    assert world.run(60) is Silence.HUNG
    assert world.tokens == 0


def test_long_prefill_that_computes_has_ten_times_the_time(make):
    world = make(limits=LivenessLimits(interval=0, timeout=60), vitals_now=Vitals(1, (7.0,)), cpu=1.0)
    assert world.run(140) is Silence.NONE
    assert world.run(400) is Silence.SILENT
    assert world.run(120) is Silence.HUNG


def test_request_that_only_waits_keeps_an_engine_that_answers_alive(make):
    """Say, for a tool or another server: its counters do not move, and all others are served."""
    world = make(vitals_now=Vitals(1, (1.0,), tells=False))
    assert world.run(2000) is Silence.NONE
    assert set(world.seen) == {Silence.NONE}
    assert world.tokens > 10


def test_engine_without_counters_has_ten_times_the_time(make):
    world = make(token_comes=False, vitals_now=None)
    assert world.run(60 + 140) is Silence.NONE
    assert world.run(500) is Silence.HUNG


def test_engine_without_counters_that_clients_fill_is_no_hang(make):
    world = make(vitals_now=None, token_comes=False, awaited=True, cpu=1.0)
    assert world.run(4000) is Silence.NONE
    world.awaited = False
    assert world.run(10) is Silence.HUNG


def test_token_that_got_no_answer_is_asked_for_again(make):
    world = make(vitals_now=None, token_comes=False, awaited=True, cpu=1.0)
    world.run(200)
    # The request before ours is done: this token ends without an answer, and the next one gets one.
    world.stuck.set()
    eventually(lambda: world.liveness._token.over)
    world.token_comes = True
    world.awaited = False
    assert world.run(1000) is Silence.NONE
    assert world.tokens > 2


def test_engine_is_no_hang_where_we_lack_threads_to_ask_it(make, monkeypatch):
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    world = make()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert world.run(1000) is Silence.NONE
    assert world.tokens == 0
    world.run(4)
    assert world.tokens == 1


def test_sleeping_engine_is_not_asked(make):
    world = make(token_comes=False, vitals_now=Vitals(0, (1.0,), asleep=True))
    assert world.run(1000) is Silence.NONE
    assert world.tokens == 0


def test_engine_paused_by_hand_is_no_hang(make):
    world = make(token_comes=False, paused=True)
    world.run(1000)
    assert Silence.HUNG not in world.seen


def test_draining_replica_is_asked_for_no_token(make):
    world = make(token_comes=False)
    assert world.run(1000, serves=False) is Silence.NONE
    assert world.tokens == 0


def test_liveness_can_be_switched_off(make):
    world = make(limits=LivenessLimits(interval=60, timeout=0), heard=False)
    assert world.run(1000) is Silence.NONE


@pytest.mark.parametrize("deleted", ["socket", "folder"])
def test_deleted_socket_is_told_from_one_that_only_refuses(tmp_path, deleted):
    place = tmp_path / "replica"
    place.mkdir()
    path = place / "http.sock"
    questions = EngineProbes(None)  # type: ignore[arg-type]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    subject = replace(SUBJECT, address=str(path))
    assert not questions.has_lost_socket(subject)
    assert not questions.has_lost_socket(SUBJECT)
    path.unlink()
    if deleted == "folder":
        place.rmdir()
    assert questions.has_lost_socket(subject)


def test_vitals_are_read_from_all_engines_and_name_sleep():
    text = (
        'vllm:num_requests_running{engine="0"} 1.0\nvllm:num_requests_running{engine="1"} 2.0\n'
        'vllm:num_requests_waiting{engine="0"} 0.0\nvllm:num_requests_waiting{engine="1"} 4.0\n'
        'vllm:generation_tokens_total{engine="0"} 5.0\nvllm:generation_tokens_created{engine="0"} 1.7e9\n'
        'vllm:engine_sleep_state{engine="0",model_name="tiny",sleep_state="awake"} 0.0\n'
    )
    assert read_vitals(text) == Vitals(7, (1.0, 2.0, 0.0, 4.0, 5.0), asleep=True)
    assert read_vitals("python_info 1") is None
