"""What is free of GPUs is read for pages in a thread of its own, from a driver that may be slow or hang."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from reconciler.config.settings import HostSettings
from reconciler.host.target import HostTarget
from reconciler.loop import gpu_readings
from reconciler.loop.daemon import Daemon
from reconciler.loop.gpu_readings import GpuReadings
from reconciler.model import GpuUse
from tests.support.nvml.driver import GIB, Driver
from tests.support.report_world import settings
from tests.support.world import eventually


class Slow:
    """A host whose driver answers only when it is let."""

    def __init__(self) -> None:
        self.asked = 0
        self.may_answer = threading.Event()

    def gpu_use(self) -> Mapping[str, GpuUse]:
        self.asked += 1
        self.may_answer.wait(30)
        return {"GPU-0": GpuUse(9, 5)}


def test_reading_names_free_memory_and_processes_of_others(tmp_path: Path, driver: Driver) -> None:
    first, second = driver.uuids
    driver.hold(first, os.getpid(), 20 * GIB)
    host = HostTarget(HostSettings(name="box", paths=("hosts/box",)), tmp_path / "state", lambda: None)
    readings = GpuReadings(lambda: [("box", host), ("a cluster", object())])
    eventually(readings.latest)
    found = readings.latest()
    host.close()
    assert set(found) == {"box"}
    assert found["box"][first]["freeBytes"] == 4 * GIB
    (stranger,) = found["box"][first]["strangers"]
    assert (stranger["pid"], stranger["memoryBytes"]) == (os.getpid(), 20 * GIB)
    assert found["box"][second]["strangers"] == []


def test_daemon_reads_the_gpus_of_its_hosts(tmp_path: Path, driver: Driver) -> None:
    daemon = Daemon(settings(tmp_path / "state"))
    try:
        eventually(daemon.gpu_use)
        assert {name: list(gpus) for name, gpus in daemon.gpu_use().items()} == {"a": list(driver.uuids)}
    finally:
        daemon.stop()


def test_driver_that_hangs_is_asked_once_and_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_readings, "_OFTEN", 0.1)
    slow = Slow()
    readings = GpuReadings(lambda: [("box", slow)])
    assert readings.latest() == readings.latest() == {}
    assert slow.asked == 1
    slow.may_answer.set()
    eventually(readings.latest)
    assert readings.latest()["box"]["GPU-0"]["freeBytes"] == 5


def test_driver_is_not_asked_by_each_who_looks() -> None:
    slow = Slow()
    slow.may_answer.set()
    readings = GpuReadings(lambda: [("box", slow)])
    for _ in range(50):
        readings.latest()
    assert slow.asked == 1


def test_reading_that_is_old_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow()
    slow.may_answer.set()
    readings = GpuReadings(lambda: [("box", slow)])
    eventually(readings.latest)
    slow.may_answer.clear()
    later = time.monotonic() + 61
    monkeypatch.setattr(gpu_readings.time, "monotonic", lambda: later)
    assert readings.latest() == {}
    slow.may_answer.set()
