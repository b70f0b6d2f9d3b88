"""A small real gRPC server, and calls to it: what an engine that speaks gRPC is to the proxy and to probes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import grpc

GENERATE = "/vllm.grpc.engine.VllmEngine/Generate"
EMBED = "/vllm.grpc.engine.VllmEngine/Embed"
HEALTH = "/grpc.health.v1.Health/Check"
SERVING, NOT_SERVING = b"\x08\x01", b"\x08\x02"


class GrpcBackend:
    """Answers every method with who it is. `Generate` streams that until it is let go; the health service says `says`.

    It listens on a port of the loopback address; with a path, on the Unix socket there, as vLLM's does.
    """

    def __init__(self, name: str, path: str = "", certificate: Path | None = None) -> None:
        self.name = name
        self.says = SERVING
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.go_on = threading.Event()
        self._server = grpc.server(futures.ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)])
        self._server.add_generic_rpc_handlers((_Handler(self),))
        where = f"unix:{path}" if path else "127.0.0.1:0"
        if certificate is None:
            self.port = self._server.add_insecure_port(where)
        else:
            pem = certificate.read_bytes()
            self.port = self._server.add_secure_port(where, grpc.ssl_server_credentials([(pem, pem)]))
        self._server.start()

    def __enter__(self) -> GrpcBackend:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.go_on.set()
        self._server.stop(0).wait(10)

    def answer(self, request: bytes, _: grpc.ServicerContext) -> bytes:
        if request == b"sleep":
            self.go_on.wait(60)
        return self.name.encode() + request

    def stream(self, _request: bytes, _: grpc.ServicerContext) -> Iterator[bytes]:
        yield f"{self.name} first".encode()
        self.go_on.wait(60)
        yield f"{self.name} last".encode()

    def health(self, _request: bytes, _: grpc.ServicerContext) -> bytes:
        return self.says


class _Handler(grpc.GenericRpcHandler):
    def __init__(self, backend: GrpcBackend) -> None:
        self._backend = backend

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        method = handler_call_details.method
        self._backend.seen.append((method, dict(handler_call_details.invocation_metadata)))
        if method == HEALTH:
            return grpc.unary_unary_rpc_method_handler(self._backend.health)
        if method == GENERATE:
            return grpc.unary_stream_rpc_method_handler(self._backend.stream)
        return grpc.unary_unary_rpc_method_handler(self._backend.answer)


@dataclass
class Refusal:
    """How a call failed."""

    code: grpc.StatusCode
    details: str


@dataclass
class GrpcClient:
    """Calls a service under its host name; it never tries again."""

    port: int
    host: str
    certificate: Path | None = None
    channel: grpc.Channel = field(init=False)

    def __post_init__(self) -> None:
        where = f"127.0.0.1:{self.port}"
        if self.certificate is None:
            options = [("grpc.default_authority", self.host), ("grpc.enable_retries", 0)]
            self.channel = grpc.insecure_channel(where, options)
        else:
            trust = grpc.ssl_channel_credentials(self.certificate.read_bytes())
            self.channel = grpc.secure_channel(where, trust, [("grpc.ssl_target_name_override", self.host)])

    def call(self, method: str, request: bytes = b"", **metadata: str) -> bytes | Refusal:
        try:
            sent = [(name.replace("_", "-"), value) for name, value in metadata.items()]
            answer: bytes = self.channel.unary_unary(method)(request, timeout=20, metadata=sent)
        except grpc.RpcError as error:
            return Refusal(error.code(), error.details())
        return answer

    def stream(self, method: str = GENERATE) -> Iterator[bytes]:
        messages: Iterator[bytes] = self.channel.unary_stream(method)(b"", timeout=60)
        return messages

    def __enter__(self) -> GrpcClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()
