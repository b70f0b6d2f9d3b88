"""From the outbox to those who are told, whatever they answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from reconciler.errors import Retryable, Terminal
from reconciler.forge.delivery import AT_ONCE, Carrier, Delivery, Pace, _spread
from reconciler.forge.http import ForgeAway, ForgeBusy
from reconciler.forge.messages import CommitState, CommitStatus, Message, Notification
from reconciler.forge.outbox import FORGE, Outbox

DAY = 86_400.0


def status(context: str = "reconciler/a", description: str = "done") -> CommitStatus:
    return CommitStatus("a" * 40, context, CommitState.SUCCESS, description)


class Rig:
    """One destination that raises what it is told to, or takes the message."""

    def __init__(self, folder: Path) -> None:
        self.outbox = Outbox(folder / "outbox.db")
        self.taken: list[Message] = []
        self.tries = 0
        self.raises: Callable[[Message], Exception | None] = lambda _: None
        self.carrier = Carrier(FORGE, self.outbox, self.send, DAY)

    def send(self, message: Message) -> None:
        self.tries += 1
        if error := self.raises(message):
            raise error
        self.taken.append(message)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def test_due_messages_are_delivered_and_the_next_turn_can_wait(rig: Rig) -> None:
    rig.outbox.put([status()], time.time())
    assert rig.carrier.turn(time.time()) > 60
    assert rig.taken == [status()]
    assert rig.outbox.waiting() == []


@pytest.mark.parametrize("error", [ForgeAway("no answer"), Retryable("token refused"), ForgeBusy("busy", 30.0)])
def test_destination_that_is_away_gets_one_try_for_many_messages(rig: Rig, error: Exception) -> None:
    rig.raises = lambda _: error
    now = time.time()
    rig.outbox.put([status(str(n)) for n in range(500)], now)
    pause = rig.carrier.turn(now)
    assert rig.tries == 1
    assert rig.carrier.problem == str(error)
    assert pause >= (30 if isinstance(error, ForgeBusy) else 1)
    assert rig.carrier.turn(now + 0.5) > 0
    assert rig.tries == 1


def test_hosts_that_are_refused_again_come_back_at_different_times() -> None:
    first, fourth = ([_spread(60.0, failures) for _ in range(500)] for failures in (1, 4))
    assert 60.0 <= min(first) <= max(first) <= 66.0
    assert 60.0 <= min(fourth) <= max(fourth) <= 3600.0
    assert max(sum(minute <= one / 60 < minute + 1 for one in fourth) for minute in range(60)) < 50
    assert _spread(7200.0, 4) >= 7200.0


def test_destination_that_is_back_gets_everything(rig: Rig) -> None:
    now = time.time()
    rig.outbox.put([status(str(n)) for n in range(AT_ONCE - 1)], now)
    rig.raises = lambda _: ForgeAway("no answer")
    rig.carrier.turn(now)
    rig.raises = lambda _: None
    rig.carrier.turn(now + 100)
    rig.carrier.turn(now + 100)
    assert len(rig.taken) == AT_ONCE - 1
    assert rig.carrier.problem == ""


def test_message_that_is_refused_keeps_no_other_from_delivery(rig: Rig) -> None:
    rig.raises = lambda one: Terminal("no such commit") if one == status("bad") else None
    rig.outbox.put([status("bad"), status("good")], time.time())
    rig.carrier.turn(time.time())
    assert rig.taken == [status("good")]
    assert [one.error for one in rig.outbox.dead()] == ["no such commit"]


def test_message_that_always_fails_keeps_no_other_from_delivery(rig: Rig) -> None:
    rig.raises = lambda one: ForgeAway("500") if one == status("bad") else None
    now = time.time()
    rig.outbox.put([status("bad"), status("good")], now)
    rig.carrier.turn(now)
    rig.carrier.turn(now + 30)
    assert rig.taken == [status("good")]


def test_message_that_waited_too_long_is_given_up(rig: Rig) -> None:
    rig.raises = lambda _: ForgeAway("no answer")
    now = time.time()
    rig.outbox.put([status()], now - DAY - 1)
    rig.carrier.turn(now)
    assert len(rig.outbox.dead()) == 1
    assert rig.outbox.waiting() == []


def test_daemon_that_was_off_for_days_delivers_what_waits(rig: Rig) -> None:
    now = time.time()
    rig.outbox.put([status()], now - 5 * DAY)
    rig.carrier.turn(now)
    assert rig.taken == [status()]
    assert rig.outbox.dead() == []


def test_clock_that_goes_back_holds_up_nothing_for_hours(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    rig.outbox.put([status()], now)
    with monkeypatch.context() as clock:
        clock.setattr(time, "time", lambda: now + 5 * 3600)
        rig.raises = lambda _: ForgeBusy("busy", 60.0)
        rig.carrier.turn(now + 5 * 3600)
    rig.raises = lambda _: None
    rig.carrier.turn(now)
    assert rig.taken == [status()]


def test_message_that_meets_a_bug_keeps_no_other_from_delivery(rig: Rig) -> None:
    rig.raises = lambda one: KeyError("x") if one == status("bad") else None
    now = time.time()
    rig.outbox.put([status("bad")], now)
    rig.outbox.put([status("good")], now)
    rig.carrier.turn(now)
    assert "a bug" in rig.carrier.problem
    assert "KeyError" in rig.outbox.waiting()[0].error
    rig.carrier.turn(now + 30)
    assert rig.taken == [status("good")]


def test_problem_is_over_once_nothing_waits(rig: Rig) -> None:
    rig.carrier._fail(Retryable("cannot use outbox.db: the disk is full"), time.time() - 10)
    assert rig.carrier.problem
    rig.carrier.turn(time.time())
    assert rig.carrier.problem == ""


def test_burst_is_delivered_at_the_pace_that_forges_want(rig: Rig) -> None:
    rig.outbox.put([status(str(n)) for n in range(100)], time.time())
    pause = rig.carrier.turn(time.time())
    assert AT_ONCE <= len(rig.taken) <= AT_ONCE + 2
    assert 0 < pause <= 1


def test_pace_gives_a_burst_and_then_a_steady_rate() -> None:
    pace = Pace(1.0, 3)
    assert [pace.take(10.0) for _ in range(3)] == [0.0] * 3
    assert pace.take(10.0) == pytest.approx(1.0)
    assert pace.take(11.0) == 0.0


def test_destination_that_hangs_delays_no_other_and_no_end(tmp_path: Path) -> None:
    outbox, hangs, told = Outbox(tmp_path / "outbox.db"), threading.Event(), threading.Event()
    note = Notification("pager", "x", "y", "z", "/targets/a", "t", "now")
    sends = {FORGE: lambda _: hangs.wait(60) and None, "notification/pager": lambda _: told.set()}
    delivery = Delivery(outbox, sends, DAY)
    outbox.put([status(), note], time.time())
    delivery.start()
    assert told.wait(10)
    began = time.monotonic()
    delivery.stop()
    assert time.monotonic() - began < 10
    assert [one.destination for one in outbox.waiting()] == [FORGE]
    outbox.close()
    hangs.set()


def test_many_destinations_that_hang_delay_the_end_together_once(tmp_path: Path) -> None:
    outbox, hangs, hung = Outbox(tmp_path / "outbox.db"), threading.Event(), threading.Semaphore(0)

    def send(_: Message) -> None:
        hung.release()
        hangs.wait(60)

    names = [f"n{number}" for number in range(20)]
    delivery = Delivery(outbox, {f"notification/{name}": send for name in names}, DAY)
    outbox.put([Notification(name, "x", "y", "z", "/targets/a", "t", "now") for name in names], time.time())
    delivery.start()
    assert all(hung.acquire(timeout=10) for _ in names)
    began = time.monotonic()
    delivery.stop()
    assert time.monotonic() - began < 10
    hangs.set()
    outbox.close()


def test_bug_in_a_provider_ends_no_thread(tmp_path: Path) -> None:
    outbox, again = Outbox(tmp_path / "outbox.db"), threading.Event()
    tries = list[Message]()

    def send(message: Message) -> None:
        tries.append(message)
        if len(tries) == 1:
            raise KeyError("x")
        again.set()

    delivery = Delivery(outbox, {FORGE: send}, DAY)
    outbox.put([status()], time.time())
    delivery.start()
    assert again.wait(20)
    delivery.stop()
    outbox.close()
