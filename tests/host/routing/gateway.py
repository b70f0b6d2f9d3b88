"""A real Envoy for tests of gRPC, and clients of the one service behind it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from reconciler.host.routing.envoy import EnvoyProxy
from tests.support.grpc_parts import GrpcBackend, GrpcClient

HOST = "talk-demo.example.com"
LIMIT = 100_000


@dataclass
class Gateway:
    proxy: EnvoyProxy
    port: int
    folder: Path

    def client(self, host: str = HOST) -> GrpcClient:
        return GrpcClient(self.port, host)

    def in_flight(self, backend: GrpcBackend) -> int | None:
        return self.proxy.observe().endpoint(backend.port).in_flight
