"""What git may say about gRPC: a command that starts its server, and a port that is named for it."""

from __future__ import annotations

import pytest

from reconciler.model import Origin
from tests.desired.test_desired import RUNTIME, SERVICE, codes, one, with_model

PORTS = "    ports: [{containerPort: 8080, name: h2c, protocol: TCP}]\n"


def runtime_line(text: str) -> int:
    return (RUNTIME + PORTS).splitlines().index(text) + 1


def test_service_of_grpc_with_its_port_is_served_without_warning() -> None:
    service = one(with_model("- --grpc"), {"runtimes/vllm.yaml": RUNTIME + PORTS})
    assert service.problems == service.blocked == service.warnings == ()
    assert (service.grpc, service.http) == (True, False)
    assert service.metrics_path is None
    plain, both = one(SERVICE), one(with_model("- --grpc-port=9000"), {"runtimes/vllm.yaml": RUNTIME + PORTS})
    assert (plain.grpc, plain.http) == (False, True)
    assert (both.grpc, both.http, both.metrics_path, both.warnings) == (True, True, "/metrics", ())


def test_port_named_h2c_before_an_http_server_is_a_warning() -> None:
    (warning,) = one(SERVICE, {"runtimes/vllm.yaml": RUNTIME + PORTS}).warnings
    assert warning.code == "PortProtocolMismatch"
    assert warning.message.startswith("a port named h2c means gRPC, but this command starts an HTTP server")
    assert warning.origin == Origin("runtimes/vllm.yaml", runtime_line(PORTS.rstrip("\n")))


def test_grpc_without_a_port_named_h2c_is_a_warning() -> None:
    (warning,) = one(with_model("- --grpc")).warnings
    assert warning.code == "PortProtocolMismatch"
    assert "name the containerPort of gRPC h2c" in warning.message


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["- --grpc-port=9000", "- --api-key=x"], "--api-key does not work with gRPC"),
        (["- --grpc", "- --api-key=x"], "--api-key does not work with gRPC"),
        (["- --grpc", "env:", "- {name: VLLM_API_KEY, value: x}"], "variable VLLM_API_KEY does not work with gRPC"),
    ],
)
def test_what_grpc_cannot_have_is_refused_with_what_to_do(lines: list[str], said: str) -> None:
    (reason,) = one(with_model(*lines), {"runtimes/vllm.yaml": RUNTIME + PORTS}).blocked
    assert reason.code == "UnsupportedArgument"
    assert reason.message.startswith(said)
    assert reason.origin


def test_auth_that_no_grpc_server_asks_for_is_refused() -> None:
    asked = with_model("- --grpc").replace("  name: chat\n", '  name: chat\n  annotations: {AUTH: "true"}\n')
    service = one(asked.replace("AUTH", "security.opendatahub.io/enable-auth"))
    assert service.spec is None
    assert codes(service.problems) == ["NoAuth"]
