"""The daemon is killed before every statement that touches the outbox, and before and after every post."""

from __future__ import annotations

import os
import signal
import time
import traceback
from collections.abc import Callable
from itertools import count, groupby
from pathlib import Path

import pytest

from reconciler.forge.delivery import Carrier
from reconciler.forge.messages import CommitState, CommitStatus, Message
from reconciler.forge.outbox import FORGE, Outbox, key_of

PENDING = [CommitStatus("a" * 40, f"reconciler/{name}", CommitState.PENDING, "being applied") for name in "ab"]
ENDS = [
    CommitStatus("a" * 40, "reconciler/a", CommitState.SUCCESS, "2 updated"),
    CommitStatus("a" * 40, "reconciler/b", CommitState.FAILURE, "1 rejected"),
]


class Steps:
    """Counts what the process does, and kills it before one of these."""

    def __init__(self, dies_before: int) -> None:
        self.left = dies_before

    def __call__(self, _: object = None) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def life(folder: Path, step: Steps) -> None:
    """Two looks at the status, each delivered. What is said is worked out anew each time, as a daemon does."""
    outbox = Outbox(folder / "outbox.db")
    outbox._db.connection.set_trace_callback(step)

    def send(message: Message) -> None:
        step()
        with (folder / "forge").open("a") as forge:
            print(key_of(message), message.state, file=forge)  # type: ignore[union-attr]
        step()

    carrier = Carrier(FORGE, outbox, send, 1000.0)
    for messages in (PENDING, ENDS) if not heard(folder) else (ENDS,):
        outbox.put(messages, time.time())
        carrier.turn(time.time())
    assert not outbox.waiting()
    assert not outbox.dead()
    outbox.close()


def heard(folder: Path) -> list[str]:
    path = folder / "forge"
    return path.read_text().splitlines() if path.exists() else []


def ends(work: Callable[[], None]) -> int:
    """The signal that killed it; 0 when it came to its end."""
    if not (pid := os.fork()):
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    assert not os.WIFEXITED(status) or os.WEXITSTATUS(status) == 0
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


@pytest.mark.slow
def test_every_message_is_told_once_or_twice_wherever_the_daemon_dies(tmp_path: Path) -> None:
    deaths = 0
    for number in count(1):
        folder = tmp_path / str(number)
        folder.mkdir()
        if not ends(lambda folder=folder, number=number: life(folder, Steps(number))):  # type: ignore[misc]
            break
        deaths += 1
        assert ends(lambda folder=folder: life(folder, Steps(0))) == 0  # type: ignore[misc]
        told = heard(folder)
        for message in ENDS:
            own = [one for one in told if one.startswith(key_of(message))]
            assert own[-1].endswith(message.state), (number, told)
            assert own.count(own[-1]) <= 2, (number, told)
            assert len(list(groupby(own))) <= 2, (number, told)
    assert deaths > 20
