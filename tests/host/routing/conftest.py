"""The proxy that tests of gRPC share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from reconciler.config.settings import Routing
from reconciler.host.routing.envoy import EnvoyProxy
from tests.host.routing.gateway import LIMIT, Gateway
from tests.support.ports import free_port


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    port, folder = free_port(), tmp_path_factory.mktemp("proxy")
    proxy = EnvoyProxy(folder, Routing(listen=f"127.0.0.1:{port}", max_body_bytes=LIMIT))
    proxy.ensure_running()
    yield Gateway(proxy, port, folder)
    proxy.stop()
