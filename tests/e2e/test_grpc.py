"""vLLM's own gRPC server behind the proxy: pushed, called by host name, and replaced while it streams."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.e2e.conftest import MakeRig
from tests.e2e.rig import Rig
from tests.support.grpc_parts import GENERATE, HEALTH, SERVING, GrpcClient, Refusal

pytestmark = pytest.mark.e2e

HOST = "tiny-default.example.com"


@pytest.fixture
def grpc_python(engine_python: Path, stock_python: Path) -> Path:
    code = "import vllm.entrypoints.grpc_server"
    if subprocess.run([stock_python, "-c", code], capture_output=True).returncode:
        pytest.skip("this vLLM has no gRPC server: install smg-grpc-servicer beside it")
    return engine_python


def request(tokens: int) -> bytes:
    """A GenerateRequest: an id, one token of a prompt, and sampling for so many tokens, streamed."""
    length = bytes((tokens & 0x7F | 0x80, tokens >> 7)) if tokens > 0x7F else bytes((tokens,))
    sampling = b"\x15\x00\x00\x80\x3f\x40" + length + b"\x70\x01\x78\x01"
    return b"\x0a\x01a\x12\x03\x12\x01\x05\x22" + bytes((len(sampling),)) + sampling + b"\x28\x01"


def tokens_in(messages: list[bytes]) -> int:
    """Of GenerateResponses: in each chunk its first field, of numbers of one or two bytes. The last message sums up."""
    chunks = [message[2:] for message in messages if message[0] == 0x0A]
    return sum(byte < 0x80 for chunk in chunks for byte in chunk[2 : 2 + chunk[1]])


def serve_grpc(rig: Rig) -> None:
    runtime = rig.read("runtimes/vllm-cpu.yaml").replace(
        "- containerPort: 8080", "- name: h2c\n          containerPort: 8080"
    )
    service = rig.read("demo/tiny.yaml").replace(
        "        - --max-num-seqs=8", "        - --grpc\n        - --max-num-seqs=8"
    )
    rig.write({"runtimes/vllm-cpu.yaml": runtime, "demo/tiny.yaml": service})


def test_grpc_server_is_served_and_replaced_without_a_lost_stream(make_rig: MakeRig, grpc_python: Path) -> None:
    rig = make_rig(rollout={"ready_timeout": "180s"})
    serve_grpc(rig)
    rig.start()
    rig.converge(240)
    (before,) = rig.records()
    assert before.socket.endswith("/http.sock:1")
    assert rig.service()["ready"] == "1/1"
    with GrpcClient(rig.port, HOST) as client:
        assert client.call(HEALTH) == SERVING
        assert tokens_in(list(client.channel.unary_stream(GENERATE)(request(4), timeout=60))) == 4
        refused = client.call("/vllm.grpc.engine.VllmEngine/FlushCache")
        assert isinstance(refused, Refusal)
        running = client.channel.unary_stream(GENERATE)(request(250), timeout=240)
        first = next(running)
        rig.edit("demo/tiny.yaml", r"--max-num-seqs=\d+", "--max-num-seqs=9")
        rig.converge(240)
        assert tokens_in([first, *running]) == 250
        rig.wait(
            "the old replica to be gone",
            lambda: [r.id for r in rig.records()] != [before.id] and len(rig.records()) == 1,
        )
        assert tokens_in(list(client.channel.unary_stream(GENERATE)(request(4), timeout=60))) == 4
