"""Real processes that are stopped: their time to get ready does not pass."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace

import pytest

from reconciler.host.probing.replicas import Pauses, is_paused
from reconciler.system import procfs
from tests.support.world import eventually, record


@pytest.fixture
def sleeper() -> Iterator[int]:
    process = subprocess.Popen(["sleep", "60"])
    yield process.pid
    process.kill()
    process.wait()


def test_stopped_process_is_paused_until_it_goes_on(sleeper: int) -> None:
    assert not is_paused(sleeper)
    os.kill(sleeper, signal.SIGSTOP)
    eventually(lambda: is_paused(sleeper))
    os.kill(sleeper, signal.SIGCONT)
    eventually(lambda: not is_paused(sleeper))


def test_time_to_get_ready_counts_from_the_last_pause(sleeper: int) -> None:
    starting = replace(record(), process=procfs.identify(sleeper))
    pauses = Pauses(began=100.0)
    assert pauses.look([starting], 110.0) == frozenset()
    assert pauses.watched_since(starting.id) == 100.0
    os.kill(sleeper, signal.SIGSTOP)
    eventually(lambda: is_paused(sleeper))
    assert pauses.look([starting], 150.0) == {starting.id}
    assert pauses.watched_since(starting.id) == 150.0
