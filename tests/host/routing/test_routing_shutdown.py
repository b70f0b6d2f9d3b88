"""What a shutdown of the host makes of a real Envoy: nothing new, and time for what runs."""

from __future__ import annotations

import contextlib
import http.client
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.config.settings import Routing
from reconciler.host.routing.admin import Admin
from reconciler.host.routing.envoy import EnvoyProxy
from tests.support.ports import free_port
from tests.support.proxy_parts import Answer, Backend, Client, ask, route, wait_for

pytestmark = pytest.mark.slow

HOST = "chat-demo.example.com"


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """Where a proxy listens that routes `chat` to a backend."""
    listen = free_port()
    proxy = EnvoyProxy(tmp_path, Routing(listen=f"127.0.0.1:{listen}"))
    with Backend("a") as backend:
        proxy.ensure_running()
        proxy.apply((route("chat", backend.port),))
        wait_for(lambda: ask(listen, "/v1/x", host=HOST).status == 200)
        yield listen
        proxy.stop()


class Stream:
    """One request that runs in the background."""

    def __init__(self, port: int, events: int, folder: Path) -> None:
        self.answer: Answer | None = None
        self._thread = threading.Thread(target=self._run, args=(port, events), daemon=True)
        self._thread.start()
        wait_for(lambda: Admin(folder).active() == 1)

    def _run(self, port: int, events: int) -> None:
        # Without an end it is as good as no answer.
        with contextlib.suppress(http.client.IncompleteRead):
            self.answer = ask(port, "/v1/x", {"stream": events}, host=HOST)

    def whole(self) -> bool:
        self._thread.join(30)
        return self.answer is not None and self.answer.body.endswith(b"data: [DONE]\n\n")


def shut_down(folder: Path, seconds: float) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "reconciler.host.routing.shutdown", str(folder), str(seconds)]
    return subprocess.Popen(words, stderr=subprocess.PIPE, text=True)


def test_shutdown_refuses_new_requests_and_lets_a_stream_end(port: int, tmp_path: Path) -> None:
    kept = Client(port)
    assert kept.ask("/v1/x", host=HOST).status == 200
    stream = Stream(port, 75, tmp_path)
    program = shut_down(tmp_path, 30)
    wait_for(lambda: _is_refused(port))
    assert kept.ask("/v1/x", host=HOST).headers["connection"] == "close"
    assert program.poll() is None, "it waits for the stream"
    assert program.wait(30) == 0
    assert stream.whole()


def test_shutdown_waits_no_longer_than_its_budget_and_says_what_is_cut(port: int, tmp_path: Path) -> None:
    stream = Stream(port, 500, tmp_path)
    program = shut_down(tmp_path, 0.3)
    assert "1 requests still run after 0.3 s and are cut" in program.communicate(timeout=30)[1]
    assert stream.answer is None


def test_shutdown_of_a_proxy_that_is_gone_does_not_wait(tmp_path: Path) -> None:
    program = shut_down(tmp_path, 60)
    assert "stopped without a drain" in program.communicate(timeout=30)[1]


def _is_refused(port: int) -> bool:
    try:
        ask(port, "/v1/x", host=HOST)
    except ConnectionError:
        return True
    return False
