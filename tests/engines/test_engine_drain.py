"""What vLLM does on SIGTERM: the rows of its behaviour that our order of steps relies on."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
from pathlib import Path

import pytest

from reconciler.engines.probe import Probe
from tests.support.engine.server import running, wait_for

pytestmark = pytest.mark.engine


@pytest.mark.parametrize("interpreter", ["engine_python", "stock_python"])
def test_with_our_shutdown_timeout_a_running_stream_ends_complete(
    interpreter: str, request: pytest.FixtureRequest, tiny_model: Path, tmp_path: Path
) -> None:
    with running(request.getfixturevalue(interpreter), tiny_model, tmp_path) as server:
        server.wait_ready()
        stream = server.stream(2500)
        server.process.terminate()
        # Draining looks healthy from outside and refuses work: only the order of our own steps protects requests.
        wait_for(lambda: server.status_of_post() in (500, None))
        assert Probe().health(server.address) is not False
        assert stream.is_complete()
        assert server.process.wait(180) == 0


def test_idle_server_ends_at_once_and_well(engine_python: Path, tiny_model: Path, tmp_path: Path) -> None:
    with running(engine_python, tiny_model, tmp_path) as server:
        server.wait_ready()
        server.process.terminate()
        assert server.process.wait(60) == 0
        assert Probe().health(server.address) is None


def test_without_a_shutdown_timeout_a_stop_loses_the_stream(
    engine_python: Path, tiny_model: Path, tmp_path: Path
) -> None:
    with running(engine_python, tiny_model, tmp_path, "--shutdown-timeout=0") as server:
        server.wait_ready()
        stream = server.stream(2500)
        # Frozen streams never end by themselves.
        stream.connection.sock.settimeout(5)
        server.process.terminate()
        with contextlib.suppress(OSError, EOFError, http.client.HTTPException):
            assert not stream.is_complete()


def test_past_its_timeout_a_server_has_to_be_killed(engine_python: Path, tiny_model: Path, tmp_path: Path) -> None:
    with running(engine_python, tiny_model, tmp_path, "--shutdown-timeout=1") as server:
        server.wait_ready()
        stream = server.stream(4000)
        server.process.terminate()
        wait_for(lambda: Probe().health(server.address) is None)
        assert server.process.poll() is None, "vLLM now bounds its own exit; the kill may be superfluous"
        os.killpg(server.process.pid, signal.SIGKILL)
        assert server.process.wait(60) == -signal.SIGKILL
        # Whether the stream breaks off or ends with an error is the race of its last bytes with the kill.
        with contextlib.suppress(OSError, EOFError, http.client.HTTPException):
            assert not stream.is_complete()
