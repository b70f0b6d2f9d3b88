"""gRPC calls of clients that never stop calling, while replicas and the proxy are replaced."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent import futures
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from queue import Queue

import grpc
import pytest

from reconciler.host.routing.admin import Admin
from reconciler.host.routing.shutdown import let_end
from tests.host.routing.gateway import HOST, Gateway
from tests.host.routing.test_routing_grpc import grpc_seat, talk
from tests.support.grpc_parts import EMBED, GENERATE, GrpcBackend
from tests.support.proxy_parts import wait_for

pytestmark = pytest.mark.slow


@dataclass
class Callers:
    """Clients with a connection each; every result of theirs is kept."""

    ended: threading.Event = field(default_factory=threading.Event)
    results: list[object] = field(default_factory=list)

    @property
    def failures(self) -> list[object]:
        return [each for each in self.results if not isinstance(each, bytes)]


@contextmanager
def calling(gateway: Gateway, count: int = 4, wait_for_ready: bool = False) -> Iterator[Callers]:
    callers = Callers()

    def call(kind: int) -> None:
        # With gRPC's own defaults: a call that certainly reached nobody is made again by the client.
        with grpc.insecure_channel(f"127.0.0.1:{gateway.port}", [("grpc.default_authority", HOST)]) as channel:
            while not callers.ended.is_set():
                try:
                    if kind % 2:
                        method = channel.unary_unary(EMBED)
                        callers.results.append(method(b"x", timeout=30, wait_for_ready=wait_for_ready))
                    else:
                        stream = channel.unary_stream(GENERATE)(b"x", timeout=30, wait_for_ready=wait_for_ready)
                        callers.results.append(b"".join(stream))
                except grpc.RpcError as error:
                    callers.results.append((kind % 2, error.code(), error.details()))
                    callers.ended.wait(0.02)

    threads = [threading.Thread(target=call, args=(kind,)) for kind in range(count)]
    for each in threads:
        each.start()
    try:
        yield callers
    finally:
        callers.ended.set()
        for each in threads:
            each.join(40)


class Brief(GrpcBackend):
    """Its streams last a moment."""

    def stream(self, _request: bytes, _: grpc.ServicerContext) -> Iterator[bytes]:
        for number in range(5):
            yield f"{self.name}{number} ".encode()
            self.go_on.wait(0.02)


def test_rollouts_lose_no_call_and_no_stream(gateway: Gateway) -> None:
    with ExitStack() as stack:
        old = stack.enter_context(Brief("0"))
        gateway.proxy.apply((talk(grpc_seat(old.port, "0")),))
        callers = stack.enter_context(calling(gateway))
        for number in range(1, 6):
            new = Brief(str(number))
            seen = len(callers.results)
            gateway.proxy.apply(
                (talk(grpc_seat(old.port, str(number - 1), draining=True), grpc_seat(new.port, str(number))),)
            )
            wait_for(lambda old=old: gateway.in_flight(old) == 0)
            old.__exit__(None, None, None)
            gateway.proxy.apply((talk(grpc_seat(new.port, str(number))),))
            wait_for(lambda seen=seen: len(callers.results) > seen + 20)
            old = new
        callers.ended.set()
        assert not callers.failures
        old.__exit__(None, None, None)


def test_proxy_that_is_replaced_lets_calls_end(gateway: Gateway) -> None:
    with Brief("a") as a:
        gateway.proxy.apply((talk(grpc_seat(a.port)),))
        with calling(gateway, wait_for_ready=True) as callers:
            wait_for(lambda: len(callers.results) > 20)
            for _ in range(3):
                assert let_end(Admin(gateway.folder), 20) == 0
                gateway.proxy.ensure_running(replace=True)
                seen = len(callers.results)
                wait_for(lambda seen=seen: len(callers.results) > seen + 20)
        assert not callers.failures


class Other(grpc.GenericRpcHandler):
    """Sends back each message of a stream, and refuses any other call with all that gRPC can say."""

    said = (grpc.StatusCode.ABORTED, "näh %20\n", (("x-why", "full"), ("x-why-bin", bytes(range(256)))))

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        if handler_call_details.method == GENERATE:
            return grpc.stream_stream_rpc_method_handler(lambda messages, _: iter(messages))
        return grpc.unary_unary_rpc_method_handler(self.refuse)

    def refuse(self, _request: bytes, context: grpc.ServicerContext) -> bytes:
        code, details, trailers = self.said
        context.set_trailing_metadata(trailers)
        return context.abort(code, details)


def test_statuses_trailers_and_open_streams_pass_the_proxy(gateway: Gateway) -> None:
    server = grpc.server(futures.ThreadPoolExecutor(4), handlers=[Other()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    gateway.proxy.apply((talk(grpc_seat(port)),))
    with gateway.client() as client:
        with pytest.raises(grpc.RpcError) as refused:
            client.channel.unary_unary(EMBED)(b"", timeout=20)
        code, details, trailers = Other.said
        assert (refused.value.code(), refused.value.details()) == (code, details)
        assert {*trailers} <= {*refused.value.trailing_metadata()}
        asked = Queue[bytes | None]()
        stream = client.channel.stream_stream(GENERATE)(iter(asked.get, None), timeout=20)
        for number in (b"0", b"1"):
            # Each message gets there before the client has said all.
            asked.put(number)
            assert next(stream) == number
        stream.cancel()
        asked.put(None)
        assert wait_for(lambda: gateway.proxy.observe().endpoint(port).in_flight == 0)
    server.stop(0).wait(10)
