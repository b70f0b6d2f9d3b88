"""Clients that mean harm: bodies that never end, more than memory holds. Real Envoy."""

from __future__ import annotations

import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest

from reconciler.config.settings import Routing
from reconciler.host.routing import bootstrap, filters
from reconciler.host.routing.direct_responses import skip
from reconciler.host.routing.envoy import EnvoyProxy
from tests.support.ports import free_port
from tests.support.proxy_parts import Backend, ask, load, route

pytestmark = pytest.mark.slow

PATHS = ("/v1/completions", "/demo/tiny/v1/completions")
MIB = 1 << 20


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def start(tmp_path: Path, port: int) -> Iterator[Callable[[], EnvoyProxy]]:
    """Starts a proxy with a service `tiny`, by the constants that hold then."""
    with ExitStack() as stack:

        def started() -> EnvoyProxy:
            tiny = stack.enter_context(Backend("tiny"))
            made = EnvoyProxy(tmp_path / "proxy", Routing(listen=f"127.0.0.1:{port}"))
            stack.callback(made.stop)
            made.ensure_running()
            made.apply((route("tiny", tiny.port),))
            return made

        yield started


def opened(port: int, path: str, length: int) -> socket.socket:
    upload = socket.create_connection(("127.0.0.1", port), timeout=60)
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    upload.sendall(head.encode() + b'{"model": "tiny", "x": "')
    return upload


def drip(upload: socket.socket) -> bytes:
    """A byte now and then, until the other side loses patience."""
    upload.settimeout(0.1)
    with suppress(ConnectionError):
        while True:
            with suppress(TimeoutError):
                return upload.recv(65536)
            upload.sendall(b" ")
    return b""


@pytest.mark.parametrize("path", PATHS)
def test_body_that_never_ends_is_cut_at_its_deadline(
    start: Callable[[], EnvoyProxy], port: int, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "_BODY_DEADLINE", "1s")
    start()
    with closing(opened(port, path, 1000)) as upload:
        assert drip(upload).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("path", PATHS)
def test_slow_answer_outlives_the_deadline_of_bodies(
    start: Callable[[], EnvoyProxy], port: int, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_BODY_DEADLINE", "_BODY_IDLE"):
        monkeypatch.setattr(bootstrap, name, "0.5s")
    start()
    assert ask(port, path, {"model": "tiny", "sleep": 1.5}).status == 200
    assert ask(port, path, {"model": "tiny", "stream": 60}).body.endswith(b"data: [DONE]\n\n")


def test_stalled_body_in_memory_is_cut_before_its_deadline(
    start: Callable[[], EnvoyProxy], port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "_BODY_IDLE", "0.3s")
    start()
    with closing(opened(port, PATHS[0], 1000)) as upload:
        assert upload.recv(65536).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("path", PATHS)
def test_upgrade_to_filters_that_it_did_not_have_loses_nothing(
    start: Callable[[], EnvoyProxy], port: int, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as before:
        before.setattr("reconciler.host.routing.paths.filters", lambda: ())
        before.setattr("reconciler.host.routing.resources.skip", lambda *_, **__: skip("model"))
        running = start()
        routes = tuple(running.observe().applied.values())
    assert routes
    after = EnvoyProxy(running._folder, Routing(listen=f"127.0.0.1:{port}"))
    with load(port, path, {"model": "tiny"}) as seen:
        assert not after.observe().ready
        after.ensure_running()
        # The new filters are there, and new connections meet them.
        assert ask(port, path, {"model": "tiny"}).status == 200
        after.apply(routes)
        time.sleep(0.5)
    assert after.observe().ready
    assert (seen.lost, seen.refused) == ([], 0)
    assert seen.served["tiny"] > 100
    assert ask(port, "/demo/tiny/metrics").status == 403


@pytest.mark.parametrize("path", PATHS)
def test_unfinished_bodies_take_bounded_memory_and_let_others_in(
    start: Callable[[], EnvoyProxy], port: int, path: str
) -> None:
    proxy = start()
    with ExitStack() as stack:
        # All are let in before any of them grows.
        uploads = [stack.enter_context(closing(opened(port, path, 32 * MIB - 1))) for _ in range(40)]
        threads = [threading.Thread(target=fill, args=(upload,)) for upload in uploads]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        most = resident(proxy)
        others = [ask(port, PATHS[0], {"model": "tiny"}).status for _ in range(40)]
    # By what they all send it would be 1.3 GB.
    assert most < 700 * MIB
    assert others.count(200) > 20
    assert set(others) <= {200, 503}


def fill(upload: socket.socket) -> None:
    with suppress(OSError):
        for _ in range(31):
            upload.sendall(b"x" * MIB)


def resident(proxy: EnvoyProxy) -> int:
    """The proxy's memory, once it does not grow any more."""
    found, seen = proxy.find_process(), [0, 1]
    assert found
    while seen[-1] != seen[-2]:
        time.sleep(0.3)
        seen.append(int(Path(f"/proc/{found.pid}/statm").read_text().split()[1]) * 4096)
    return max(seen)


def test_what_is_shed_is_answered_with_503_and_retry_after(
    start: Callable[[], EnvoyProxy], port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So little that an idle proxy is above it.
    monkeypatch.setattr(bootstrap, "full_heap", lambda _: MIB)
    start()
    time.sleep(0.1)
    answer = ask(port, PATHS[0], {"model": "tiny"})
    assert (answer.status, answer.headers["retry-after"]) == (503, "5")
    assert answer.json["error"]["type"] == "ServiceUnavailableError"


MANY = "[" + "1," * 14_000_000 + "1]"


def test_body_of_many_small_values_takes_no_memory_by_its_model(start: Callable[[], EnvoyProxy], port: int) -> None:
    proxy = start()
    before = resident(proxy)
    answer = ask(port, PATHS[0], f'{{"model": "tiny", "x": {MANY}}}'.encode())
    assert answer.status == 413
    assert "/{namespace}/{name}/v1/…" in answer.json["error"]["message"]
    assert ask(port, PATHS[1], f'{{"model": "tiny", "x": {MANY}}}'.encode()).status == 200
    # All of it in memory, and once more as text for the count, but never a value as an object: that was 2.7 GB.
    assert peak(proxy) - before < 300 * MIB


@pytest.mark.parametrize(
    ("x", "status"),
    [
        (f"[{'1,' * (filters.MOST - 10)}1]", 200),
        (f"[{'1,' * filters.MOST}1]", 413),
        (f"[{'[],' * (filters.MOST // 2)}1]", 413),
        (f"[{'{},' * (filters.MOST // 2)}1]", 413),
        (f'"{"a, [b] {c} " * filters.MOST}"', 200),
        (f'"{chr(92)}"{"," * 2 * filters.MOST}"', 200),
        (f'"{chr(92) * 2}","y":[{"1," * filters.MOST}1]', 413),
    ],
    ids=["tokens", "ints", "lists", "objects", "text", "escaped quote", "escaped backslash"],
)
def test_values_are_counted_outside_of_strings_alone(
    start: Callable[[], EnvoyProxy], port: int, x: str, status: int
) -> None:
    start()
    assert ask(port, PATHS[0], f'{{"x": {x}, "model": "tiny"}}'.encode()).status == status


def peak(proxy: EnvoyProxy) -> int:
    """The most memory that it ever had."""
    found = proxy.find_process()
    assert found
    status = Path(f"/proc/{found.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def test_many_middling_bodies_of_http2_take_bounded_memory(start: Callable[[], EnvoyProxy], port: int) -> None:
    proxy = start()
    with ExitStack() as stack:
        connections = [stack.enter_context(socket.create_connection(("127.0.0.1", port), 30)) for _ in range(30)]
        threads = [
            threading.Thread(target=Sender(each).begin, args=(100, 450_000), daemon=True) for each in connections
        ]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 10
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        # Of 100 on each connection none is large. Without a limit it would be all that is sent: 1.35 GB.
        assert peak(proxy) < 900 * MIB


class Sender:
    """A client of HTTP/2 that begins bodies and ends none of them."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._windows: dict[int, int] = defaultdict(lambda: 65_535)
        self._ended: set[int] = set()

    def begin(self, streams: int, length: int) -> None:
        with suppress(OSError):
            self._connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0))
            for stream in range(1, 2 * streams, 2):
                # POST, http, and three headers without compression.
                headers = ((4, PATHS[0]), (1, "x"), (31, "application/json"))
                block = b"\x83\x86" + b"".join(literal(name, value) for name, value in headers)
                self._connection.sendall(frame(1, stream, block, 4))
                for piece in (b'{"model": "tiny", "x": "', *[b"x" * 10_000] * (length // 10_000)):
                    self._send(stream, piece)

    def _send(self, stream: int, piece: bytes) -> None:
        while min(self._windows[0], self._windows[stream]) < len(piece) and stream not in self._ended:
            self._read()
        if stream not in self._ended:
            self._connection.sendall(frame(0, stream, piece))
            self._windows[0] -= len(piece)
            self._windows[stream] -= len(piece)

    def _read(self) -> None:
        """The next frame: may more be sent, or is a request over?"""
        head = self._connection.recv(9, socket.MSG_WAITALL)
        payload = self._connection.recv(int.from_bytes(head[:3], "big"), socket.MSG_WAITALL)
        if not head or head[3] == 7:
            raise ConnectionError
        stream = int.from_bytes(head[5:], "big")
        if head[3] == 8:
            self._windows[stream] += int.from_bytes(payload, "big")
        elif head[3] == 3:
            self._ended.add(stream)


def frame(kind: int, stream: int, payload: bytes = b"", flags: int = 0) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def literal(name: int, value: str) -> bytes:
    return (bytes([name]) if name < 15 else bytes([15, name - 15])) + bytes([len(value)]) + value.encode()
