"""What replicas that speak gRPC say of themselves, asked over real connections."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.engines.grpc_probe import GrpcProbe
from reconciler.engines.probe import ProbeResult
from tests.engines.test_engine_probe_attacked import saying
from tests.support.grpc_parts import NOT_SERVING, GrpcBackend
from tests.support.ports import free_port
from tests.support.proxy_parts import Backend

GOODBYE = b"\0\0\x08\x07\0\0\0\0\0" + bytes(8)
SETTINGS = b"\0\0\0\x04\0\0\0\0\0"
DATA = b"\0\x40\0\0\0\0\0\0\x01" + bytes(1 << 14)


@pytest.mark.parametrize("listens", ["on a port", "on a socket"])
def test_server_that_serves_is_ready_wherever_it_listens(listens: str, tmp_path: Path) -> None:
    path = str(tmp_path / "http.sock:1") if listens == "on a socket" else ""
    with GrpcBackend("a", path) as backend:
        address = path or backend.port
        assert GrpcProbe().check(address, "any") == ProbeResult(True, True, "answers")
        assert GrpcProbe().health(address) is True
        assert GrpcProbe().answers(address, "any", None, 2.0)


def test_server_that_does_not_serve_is_neither_ready_nor_healthy() -> None:
    with GrpcBackend("a") as backend:
        backend.says = NOT_SERVING
        assert GrpcProbe().check(backend.port, "any") == ProbeResult(
            False, None, "/grpc.health.v1.Health/Check answered NOT_SERVING"
        )
        assert GrpcProbe().health(backend.port) is False
        assert GrpcProbe().answers(backend.port, "any", None, 2.0)
        backend.says = b""
        assert GrpcProbe().health(backend.port) is None


def test_address_where_nothing_or_another_protocol_answers_is_unknown() -> None:
    port = free_port()
    assert GrpcProbe().check(port, "any") == ProbeResult(False, None, f"nothing listens on port {port} yet")
    with Backend("http") as backend:
        assert not GrpcProbe(timeout=0.5).answers(backend.port, "any", None, 0.5)


@pytest.mark.parametrize(
    ("said", "detail"),
    [
        ([GOODBYE], "was broken off"),
        ([SETTINGS], "did not answer within 0.5 s"),
        ([SETTINGS] * 20_000, "Health/Check"),
        ([DATA] * 20, "answered more than 64 KiB"),
        ([b"\xff" * 9], "answered more than 64 KiB"),
    ],
)
def test_answer_that_means_harm_ends_in_time(said: list[bytes], detail: str) -> None:
    with saying(said, 0.0 if len(said) > 1 else 3.0) as port:
        found = GrpcProbe(timeout=0.5).check(port, "any")
    assert (found.ready, found.healthy) == (False, None)
    assert detail in found.detail
