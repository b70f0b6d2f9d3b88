"""The daemon's own clockwork: signals, pauses and settings that arrive at the worst moment."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from queue import Empty

import pytest
import yaml

from reconciler.config.settings import Settings
from reconciler.loop.daemon import Daemon
from reconciler.loop.following import _pause
from reconciler.loop.run import _read_again, _Signals
from reconciler.report.convergence import convergence_of, readiness


@pytest.fixture
def signals() -> Iterator[_Signals]:
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield _Signals()
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signal_that_comes_as_the_wait_ends_is_not_lost(signals: _Signals, number: signal.Signals):
    class Bell:
        def put(self, _: None) -> None: ...

        def get(self, timeout: float) -> None:
            os.kill(os.getpid(), number)
            raise Empty

    signals._bell = Bell()  # type: ignore[assignment]
    assert signals.wait(0.01)
    assert (signals.stop, signals.reload) == (number == signal.SIGTERM, number == signal.SIGHUP)


def test_git_is_asked_again_after_a_day_of_failures():
    assert _pause(60.0, 1) == 2.0
    assert _pause(60.0, 5000) == 60.0


def test_hosts_that_start_together_ask_git_at_different_times():
    asked = sorted(_pause(60.0, 0, is_first=True) for _ in range(1000))
    assert max(sum(second <= one < second + 1 for one in asked) for second in range(60)) < 60


def test_new_state_dir_is_refused_while_the_daemon_runs(tmp_path: Path):
    def written(folder: str) -> Settings:
        path = tmp_path / "config.yaml"
        target = {"name": "box", "paths": ["hosts/box"]}
        path.write_text(yaml.safe_dump({"source": {"url": "/x"}, "state_dir": folder, "targets": [target]}))
        return Settings.load(path)

    daemon = Daemon(written(str(tmp_path / "a")))
    written(str(tmp_path / "b"))
    assert _read_again(tmp_path / "config.yaml", daemon) is None
    (entry,) = daemon.history(None, 9)
    assert entry["event"] == "config_rejected"
    assert "state_dir" in entry["message"]
    status = daemon.status()
    assert any("config rejected" in fault and "state_dir" in fault for fault in convergence_of(status).faults)
    assert readiness(status, 1.0, 60.0).failing[-1].startswith("config: ")
    daemon.stop()
