"""A new version is promoted once a token comes back, where the daemon is told how to reach it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from tests.cluster.rig import ClusterRig
from tests.cluster.test_rollouts import RUNTIME, service, shown
from tests.controlplane.control_plane import ControlPlane
from tests.controlplane.fixtures import AddNode
from tests.controlplane.kserve.installation import KServe

pytestmark = pytest.mark.cluster


class Gateway(ThreadingHTTPServer):
    """Stands where a cluster's gateway would: pods of the tests run no engine."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.is_open = False
        self.asked: list[tuple[str, str]] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    server: Gateway

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, body["model"]))
        answer = (
            {"choices": [{"text": "a", "finish_reason": "length"}]} if self.server.is_open else {"error": "no route"}
        )
        data = json.dumps(answer).encode()
        self.send_response(200 if self.server.is_open else 503)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    made = Gateway()
    yield made
    made.shutdown()
    made.server_close()


def test_version_is_promoted_once_a_token_comes_back(
    tmp_path: Path, control_plane: ControlPlane, namespace: str, kserve: KServe, add_node: AddNode, gateway: Gateway
):
    add_node(gpus=2)
    probe = f"http://127.0.0.1:{gateway.server_port}/{{namespace}}/{{name}}"
    rig = ClusterRig(tmp_path / "rig", control_plane, namespace, {"probe": probe})
    rig.push({"prod/runtime.yaml": yaml.safe_dump(RUNTIME), "prod/a.yaml": service("a")})

    found = shown(rig.sync(12), "a")
    assert found["sync"] == "OutOfSync", found
    assert "waiting for a first token: /v1/completions answered 503: no route" in found["step"], found["step"]
    assert gateway.asked[0] == (f"/{namespace}/a/v1/completions", "a")

    gateway.is_open = True
    assert shown(rig.sync(30), "a")["sync"] == "Synced"
