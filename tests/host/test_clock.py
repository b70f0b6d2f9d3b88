"""The clock of the host is set: no deadline may come early, and none may move away."""

from __future__ import annotations

import pytest

from reconciler.host.clock import Clock
from reconciler.host.health import is_crash_looping, restart_at


@pytest.mark.parametrize("leap", [3600.0, -3600.0])
def test_leap_is_followed_only_when_nobody_waits(leap: float) -> None:
    wall, steady = [1000.0], [50.0]
    clock = Clock(lambda: wall[0], lambda: steady[0])
    wall[0] += leap
    steady[0] += 2
    assert clock.now() == 1002.0
    clock.follow()
    assert clock.now() == wall[0]


def test_time_in_which_the_daemon_was_paused_does_not_count() -> None:
    wall, steady = [1000.0], [50.0]
    clock = Clock(lambda: wall[0], lambda: steady[0])

    def sleep(seconds: float) -> None:
        wall[0] += seconds
        steady[0] += seconds

    sleep(3600)
    assert clock.now() == 4600  # Nobody ticked yet.
    clock.tick()
    for _ in range(3):
        sleep(1)
        clock.tick()
    assert clock.now() == 4603
    sleep(900)
    assert clock.now() == 4603
    sleep(2)
    assert clock.now() == 4605
    clock.tick()
    clock.follow()
    assert clock.now() == wall[0]


def test_crashes_that_lie_ahead_of_the_clock_keep_nobody_from_starting() -> None:
    ahead = (5000.0, 5001.0, 5002.0)
    assert restart_at(ahead, 1000.0) == 1000.0
    assert not is_crash_looping(ahead, 1000.0)
