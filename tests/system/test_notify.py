"""The sd_notify protocol, on a real socket."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from reconciler.system.notify import notify, reloading, watchdog_interval


def test_lines_arrive_in_one_datagram(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "n"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "n"))
        notify("READY=1", "STATUS=fine")
        assert manager.recv(100) == b"READY=1\nSTATUS=fine"
        notify(*reloading())
        assert manager.recv(100).startswith(b"RELOADING=1\nMONOTONIC_USEC=")


def test_without_a_manager_nothing_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    notify("READY=1")


@pytest.mark.parametrize(("given", "seconds"), [("", None), ("0", None), ("x", None), ("10000000", 5.0)])
def test_watchdog_is_told_twice_as_often_as_it_asks(given: str, seconds: float | None, monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", given)
    assert watchdog_interval() == seconds
