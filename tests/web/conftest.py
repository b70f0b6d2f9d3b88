"""A web side on real sockets, and its clients."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.config.settings import Settings
from reconciler.web.client import DaemonClient
from reconciler.web.metrics import Metrics
from reconciler.web.server import WebSide
from tests.support.report_world import settings
from tests.web.fake_loop import FakeLoop


@pytest.fixture
def loop() -> FakeLoop:
    return FakeLoop()


@pytest.fixture
def config(tmp_path: Path) -> Settings:
    # Deeper than the 107 bytes that the kernel allows for the path of a socket.
    return settings(tmp_path / ("deep" * 25) / "state")


@pytest.fixture
def web(config: Settings, loop: FakeLoop) -> Iterator[WebSide]:
    side = WebSide(config, loop, Metrics())
    side.start()
    yield side
    side.stop()


@pytest.fixture
def client(web: WebSide, config: Settings) -> DaemonClient:
    return DaemonClient(config.socket_path)
