"""Crowds and malicious clients, on the public port and on the owner's socket."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from reconciler.config.settings import Settings
from reconciler.system.unix_sockets import connect
from reconciler.web.metrics import Metrics
from reconciler.web.server import WebSide
from tests.support.report_world import settings
from tests.web.fake_loop import FakeLoop
from tests.web.test_web import ask, get

pytestmark = pytest.mark.slow

Connect = Callable[..., socket.socket]


@pytest.fixture
def config(tmp_path: Path) -> Settings:
    return settings(tmp_path / "state")


@pytest.fixture
def web(config: Settings) -> Iterator[WebSide]:
    side = WebSide(config, FakeLoop(), Metrics())
    side.start()
    yield side
    side.stop()


@pytest.fixture
def opened(web: WebSide, config: Settings) -> Iterator[Connect]:
    """Opens a connection and says something on it, to the port from an address or to the owner's socket."""
    with ExitStack() as stack:

        def open_one(said: bytes, source: str = "127.0.0.1", *, owner: bool = False) -> socket.socket:
            made = connect(config.socket_path, 10) if owner else socket.create_connection(web.address, 10, (source, 0))
            stack.enter_context(made)
            with suppress(OSError):
                made.sendall(said)
            return made

        yield open_one


def is_closed(connection: socket.socket) -> bool:
    try:
        while connection.recv(1 << 20):
            pass
    except TimeoutError:
        return False
    except ConnectionResetError:
        return True
    return True


def test_answers_that_nobody_reads_take_no_memory(
    web: WebSide, opened: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reconciler.web.connections._MOST_UNREAD", 8 << 20)
    monkeypatch.setattr(Metrics, "text", lambda *_: b"x" * (24 << 20))
    slow = [opened(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n") for _ in range(4)]
    assert len(get(web, "/metrics")[1]) == 24 << 20
    read = [len(b"".join(iter(lambda one=one: receive(one), b""))) for one in slow]
    assert sum(length < 24 << 20 for length in read) >= 3


def receive(connection: socket.socket) -> bytes:
    connection.settimeout(0.5)
    try:
        return connection.recv(1 << 20)
    except OSError:
        return b""


def test_crowd_of_one_source_costs_no_other_its_place(web: WebSide, opened: Connect) -> None:
    patient = opened(b"GET /healthz HTTP/1.1\r\nHost: a\r\n", "127.0.0.3")
    for _ in range(140):
        opened(b"GET /metrics HTTP/1.1\r\n", "127.0.0.2")
    patient.sendall(b"\r\n")
    assert b" 200 OK" in patient.recv(1 << 16)


def test_crowd_of_all_sources_costs_no_answer(web: WebSide, opened: Connect) -> None:
    for number in range(180):
        opened(b"GET /metrics HTTP/1.1\r\n", f"127.0.1.{number + 1}")
    assert [get(web, "/healthz")[0] for _ in range(10)] == [200] * 10


def test_one_answer_is_worked_out_for_a_crowd(web: WebSide, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = [], threading.Event()

    def slow(*_: object) -> bytes:
        begun.append(1)
        assert go_on.wait(10)
        return b"answer"

    monkeypatch.setattr(Metrics, "text", slow)
    got: list[tuple[int, str]] = []
    crowd = [threading.Thread(target=lambda: got.append(get(web, "/metrics"))) for _ in range(30)]
    for each in crowd:
        each.start()
    assert get(web, "/healthz")[0] == 200
    go_on.set()
    for each in crowd:
        each.join()
    assert got == [(200, "answer")] * 30
    assert len(begun) < 10


@pytest.mark.parametrize(
    "said",
    [
        b"POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{",
        b"POST /healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{",
        b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n" * 2000 + b"GET /",
        b"GET /healthz\r\n",
        b"GET /healthz HTTP/1.1\r\nX: " + b"a" * 1_000_000,
        b"GET /" + b"a" * 1_000_000,
        b"\x16\x03\x01\x00",
    ],
)
def test_question_that_never_ends_is_closed(
    web: WebSide, opened: Connect, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    for name in ("_ASK_SECONDS", "_ANSWER_SECONDS"):
        monkeypatch.setattr(f"reconciler.web.connections.{name}", 0.2)
    assert is_closed(opened(said))
    assert get(web, "/healthz")[0] == 200


def test_half_a_command_to_the_owners_socket_is_closed(
    config: Settings, opened: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reconciler.web.connections._ASK_SECONDS", 0.2)
    half = opened(b'POST /suspend HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\n{"service": ', owner=True)
    assert is_closed(half)
    assert ask(config, "GET", "/status")[0] == 200


def test_crowd_on_the_owners_socket_starves_nobody(config: Settings, opened: Connect) -> None:
    for _ in range(200):
        opened(b"POST /sync HTTP/1.1\r\n", owner=True)
    assert [ask(config, "GET", "/status")[0] for _ in range(10)] == [200] * 10


def test_endless_line_on_the_owners_socket_is_closed(config: Settings, opened: Connect) -> None:
    assert is_closed(opened(b"GET /" + b"a" * 4_000_000, owner=True))
    assert ask(config, "GET", "/status")[0] == 200


def test_syncs_that_wait_for_git_leave_threads_for_all_other_answers(
    web: WebSide, opened: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Semaphore(0), threading.Event()

    def slow(_: FakeLoop) -> int:
        begun.release()
        assert go_on.wait(20)
        return 2

    monkeypatch.setattr(FakeLoop, "request_sync", slow)
    asking = [opened(b"POST /sync HTTP/1.1\r\nHost: a\r\n\r\n", owner=True) for _ in range(45)]
    try:
        assert begun.acquire(timeout=10)
        assert [get(web, path)[0] for path in ("/healthz", "/metrics")] == [200, 200]
    finally:
        go_on.set()
    assert all(b" 200 OK" in each.recv(1 << 16) for each in asking)
