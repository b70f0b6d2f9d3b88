"""What listens at a socket of systemd need not be systemd, nor healthy. Real ones are used in tests/machines."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from reconciler.host.systemd import bus
from reconciler.host.systemd.bus import Bus, NoConnection
from reconciler.host.systemd.systemd_api import Systemd
from tests.support.world import eventually


@contextmanager
def listening(path: Path, talk: Callable[[socket.socket], object]) -> Iterator[Path]:
    """A peer that sends this to every client, and then hangs up."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def serve() -> None:
            while True:
                try:
                    with server.accept()[0] as caller:
                        talk(caller)
                except OSError:
                    return

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield path
        server.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def hang_up(caller: socket.socket) -> None:
    caller.recv(100)


def refuse(caller: socket.socket) -> None:
    caller.recv(100)
    caller.sendall(b"REJECTED KERBEROS\r\n")


def welcome(caller: socket.socket) -> None:
    caller.recv(100)
    caller.sendall(b"OK 1234\r\n")
    caller.recv(100)


def talk_nonsense(caller: socket.socket) -> None:
    welcome(caller)
    caller.sendall(b"x" * 64)


@pytest.mark.parametrize("talk", [hang_up, refuse, welcome, talk_nonsense])
@pytest.mark.parametrize("name", ["private", "bus"])
def test_who_does_not_talk_like_a_bus_is_nobody(
    tmp_path: Path, talk: Callable[[socket.socket], None], name: str
) -> None:
    with listening(tmp_path / name, talk) as path, pytest.raises(NoConnection, match=f"nothing answers at {path}"):
        Bus(lambda *_: None, path)


def silent(caller: socket.socket) -> None:
    while caller.recv(100):
        pass


def test_bus_that_never_greets_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bus, "_GREETING_SECONDS", 0.1)
    with listening(tmp_path / "bus", silent) as path, pytest.raises(NoConnection, match=r"not authenticate in 0\.1 s"):
        Bus(lambda *_: None, path)


def test_lost_connections_leave_no_open_files(tmp_path: Path) -> None:
    with listening(tmp_path / "bus", welcome) as path:
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            with pytest.raises(NoConnection):
                Bus(lambda *_: None, path)
        eventually(lambda: len(os.listdir("/proc/self/fd")) <= before)


def test_error_without_any_socket_names_both_and_what_is_missing(tmp_path: Path) -> None:
    with listening(tmp_path / "private", hang_up) as path, pytest.raises(NoConnection) as caught:
        Systemd((path, tmp_path / "nothing")).units("a")
    assert f"nothing answers at {path}" in str(caught.value)
    assert f"nothing answers at {tmp_path / 'nothing'}: No such file" in str(caught.value)
    assert "a daemon that runs as root and sees /run/systemd/private" in str(caught.value)
