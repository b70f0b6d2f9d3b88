"""gRPC by host name: its methods, its errors, its drains. Real Envoy, a real gRPC client and a real gRPC server."""

from __future__ import annotations

import contextlib
import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from grpc import StatusCode

from reconciler.host.routing import bootstrap, endpoints, resources
from reconciler.host.routing.files import dump_routes, load_routes
from reconciler.host.routing.paths import find_fault
from reconciler.host.routing.xds_files import content
from reconciler.model import Endpoint, ReplicaId, Routed, ServiceRoute
from tests.host.routing.gateway import HOST, LIMIT, Gateway
from tests.support.grpc_parts import EMBED, GENERATE, HEALTH, SERVING, GrpcBackend, GrpcClient, Refusal
from tests.support.proxy_parts import Backend, ask, route, service, wait_for

pytestmark = pytest.mark.slow

TALK = service("talk")
CLOSED = (
    "/vllm.grpc.engine.VllmEngine/Abort",
    "/vllm.grpc.engine.VllmEngine/FlushCache",
    "/vllm.grpc.engine.VllmEngine/StartProfile",
    "/vllm.grpc.engine.VllmEngine/GetServerInfo",
    "/vllm.grpc.engine.VllmEngine/SubscribeKvEvents",
    "/vllm.Control/Sleep",
    "/vllm.Inference/../vllm.Control/Sleep",
    "/inference.GRPCInferenceService/RepositoryModelUnload",
    "/inference.GRPCInferenceService/SystemSharedMemoryRegister",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/v1/completions",
)
OPEN = (
    EMBED,
    "/vllm.grpc.engine.VllmEngine/GetModelInfo",
    "/vllm.Inference/Generate",
    "/inference.GRPCInferenceService/ModelInfer",
    "/inference.GRPCInferenceService/ServerReady",
)


def grpc_seat(port: int, serial: str = "0", draining: bool = False, tls: bool = False, socket: str = "") -> Endpoint:
    return Endpoint(ReplicaId(TALK, f"aaaaaaaa-{serial}"), port, draining, tls, socket, grpc=True)


def talk(*seats: Endpoint, **more: object) -> ServiceRoute:
    return replace(ServiceRoute(TALK, seats, grpc=True, http=False), **more)


def test_open_methods_reach_the_engine_and_others_never(gateway: Gateway) -> None:
    with GrpcBackend("a") as a, gateway.client() as client:
        gateway.proxy.apply((talk(grpc_seat(a.port)),))
        assert [client.call(method, b"!") for method in OPEN] == [b"a!"] * len(OPEN)
        assert client.call(HEALTH) == SERVING
        before = len(a.seen)
        for method in CLOSED:
            refused = client.call(method)
            assert isinstance(refused, Refusal)
            assert refused.code is StatusCode.PERMISSION_DENIED
            assert refused.details.startswith("this method is not open")
        assert len(a.seen) == before


def test_engine_on_a_socket_is_called_there(gateway: Gateway, tmp_path: Path) -> None:
    path = str(tmp_path / "engine:1")
    with GrpcBackend("s", path) as _, gateway.client() as client:
        gateway.proxy.apply((talk(grpc_seat(1, socket=path)),))
        assert client.call(EMBED) == b"s"


def test_annotation_opens_a_method_but_none_that_steers(gateway: Gateway) -> None:
    opened = ("/vllm.grpc.engine.VllmEngine/GetServerInfo", "/vllm.Control")
    with GrpcBackend("a") as a, gateway.client() as client:
        gateway.proxy.apply((talk(grpc_seat(a.port), open_paths=opened),))
        assert client.call(opened[0]) == b"a"
        assert client.call("/vllm.Control/Sleep") == Refusal(
            StatusCode.PERMISSION_DENIED,
            "this method is not open; open more with the service's annotation reconciler/open-paths",
        )
    assert "steers the engine" in find_fault(("/vllm.Control/Sleep",))
    assert "steers the engine" in find_fault(("/vllm.grpc.engine.VllmEngine/FlushCache",))


def test_guarded_service_has_no_open_method_but_health(gateway: Gateway) -> None:
    with GrpcBackend("a") as a, gateway.client() as client:
        gateway.proxy.apply((talk(grpc_seat(a.port), guarded=True),))
        assert client.call(HEALTH) == SERVING
        refused = client.call(EMBED)
        assert isinstance(refused, Refusal)
        assert refused.code is StatusCode.PERMISSION_DENIED


def test_errors_of_the_proxy_are_statuses_of_grpc(gateway: Gateway) -> None:
    with GrpcBackend("a") as a, Backend("web") as web, gateway.client() as client:
        gateway.proxy.apply((talk(grpc_seat(a.port), request_timeout=0.3), route("web", web.port)))
        assert client.call(EMBED, b"x" * (LIMIT + 1)) == Refusal(
            StatusCode.RESOURCE_EXHAUSTED, "the request is too large"
        )
        slow = client.stream()
        assert next(slow) == b"a first"
        with gateway.client("nobody-demo.example.com") as stranger, gateway.client("web-demo.example.com") as other:
            text = "no service takes gRPC here; call it by its host name"
            assert stranger.call(EMBED) == Refusal(StatusCode.UNIMPLEMENTED, text)
            refused = other.call(EMBED)
            assert isinstance(refused, Refusal)
            assert refused.code is StatusCode.PERMISSION_DENIED
        gateway.proxy.apply((talk(),))
        assert client.call(EMBED) == Refusal(StatusCode.UNAVAILABLE, "no replica of this service is ready")
    with gateway.client() as client:
        gateway.proxy.apply((talk(grpc_seat(a.port)),))
        refused = client.call(EMBED)
        assert isinstance(refused, Refusal)
        assert (refused.code, refused.details) == (
            StatusCode.UNAVAILABLE,
            "the replica closed the connection before it responded",
        )


def test_timeout_of_the_service_ends_a_call_that_has_not_begun(gateway: Gateway) -> None:
    with GrpcBackend("a") as a, gateway.client() as client:
        gateway.proxy.apply((talk(grpc_seat(a.port), request_timeout=0.3),))
        assert client.call("/vllm.Inference/Generate", b"sleep") == Refusal(
            StatusCode.DEADLINE_EXCEEDED, "the service did not respond in time"
        )


def test_headers_of_envoys_own_are_taken_from_no_client(gateway: Gateway) -> None:
    with GrpcBackend("a") as a, gateway.client() as client:
        gateway.proxy.apply((talk(grpc_seat(a.port)),))
        client.call(EMBED, x_envoy_upstream_rq_timeout_ms="1", x_envoy_retry_on="5xx")
        assert not {"x-envoy-upstream-rq-timeout-ms", "x-envoy-retry-on"} & a.seen[-1][1].keys()


def test_http_request_to_a_grpc_service_is_told_so(gateway: Gateway) -> None:
    with GrpcBackend("a") as a:
        gateway.proxy.apply((talk(grpc_seat(a.port)),))
        for path, host in (("/v1/completions", HOST), ("/demo/talk/v1/completions", "x")):
            answer = ask(gateway.port, path, {"model": "x"}, host=host)
            assert answer.status == 404
            assert "speaks gRPC alone" in answer.json["error"]["message"]
        assert "does not exist" in ask(gateway.port, "/v1/completions", {"model": "talk"}).json["error"]["message"]
        assert ask(gateway.port, "/v1/models").json["data"] == []


def test_draining_replica_ends_its_streams_and_gets_no_more(gateway: Gateway) -> None:
    with GrpcBackend("old") as old, GrpcBackend("new") as new, gateway.client() as client:
        gateway.proxy.apply((talk(grpc_seat(old.port, "old")),))
        streams = [client.stream() for _ in range(3)]
        assert [next(stream) for stream in streams] == [b"old first"] * 3
        gateway.proxy.apply((talk(grpc_seat(old.port, "old", draining=True), grpc_seat(new.port, "new")),))
        assert [client.call(EMBED) for _ in range(20)] == [b"new"] * 20
        assert gateway.proxy.observe().endpoint(old.port).routed is Routed.DRAINING
        assert gateway.in_flight(old) == 3
        old.go_on.set()
        assert [list(stream) for stream in streams] == [[b"old last"]] * 3
        wait_for(lambda: gateway.in_flight(old) == 0)


def test_service_that_becomes_grpc_serves_both_until_it_is(gateway: Gateway) -> None:
    """Its old replicas answer HTTP as long as they are there."""
    with Backend("old") as old, GrpcBackend("new") as new, gateway.client() as client:
        before = route("talk", old.port)
        gateway.proxy.apply((before,))
        gateway.proxy.apply((talk(*before.stable, grpc_seat(new.port, "new")),))
        assert client.call(EMBED) == b"new"
        assert ask(gateway.port, "/v1/completions", {"model": "talk"}).json["name"] == "old"
        gateway.proxy.apply((talk(grpc_seat(new.port, "new")),))
        assert ask(gateway.port, "/v1/completions", {"model": "talk"}).status == 404
        assert client.call(EMBED) == b"new"


def test_replica_of_both_protocols_is_one_to_drains_and_clients(gateway: Gateway) -> None:
    with Backend("web") as web, GrpcBackend("a") as a, gateway.client() as client:
        both = replace(route("talk", web.port).stable[0], grpc_port=a.port)
        gateway.proxy.apply((ServiceRoute(TALK, (both,), grpc=True),))
        assert client.call(EMBED) == b"a"
        for path, host in (("/v1/completions", HOST), ("/demo/talk/v1/completions", "x"), ("/v1/completions", "x")):
            assert ask(gateway.port, path, {"model": "talk"}, host=host).json["name"] == "web"
        stream = client.stream()
        next(stream)
        gateway.proxy.apply((ServiceRoute(TALK, (replace(both, draining=True),), grpc=True),))
        assert gateway.proxy.observe().endpoint(web.port).routed is Routed.DRAINING
        assert gateway.proxy.observe().endpoint(web.port).in_flight == 1
        assert client.call(EMBED) == Refusal(StatusCode.UNAVAILABLE, "no replica of this service is ready")
        a.go_on.set()
        assert list(stream) == [b"a last"]
        wait_for(lambda: gateway.proxy.observe().endpoint(web.port).in_flight == 0)


def test_share_of_a_canary_holds_for_grpc(gateway: Gateway) -> None:
    with GrpcBackend("a") as a, GrpcBackend("b") as b, gateway.client() as client:
        gateway.proxy.apply((talk(grpc_seat(a.port, "a"), canary=(grpc_seat(b.port, "b"),), canary_percent=50),))
        assert {client.call(EMBED) for _ in range(60)} == {b"a", b"b"}


def test_tls_is_passed_through_to_a_grpc_server(gateway: Gateway, tmp_path: Path) -> None:
    pem, key = tmp_path / "server.pem", tmp_path / "key.pem"
    made = ["openssl", "req", "-x509", "-days", "2", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    made += ["-nodes", "-keyout", str(key), "-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST}"]
    subprocess.run([*made, "-out", str(pem)], check=True, capture_output=True)
    pem.write_text(pem.read_text() + key.read_text())
    with GrpcBackend("a", certificate=pem) as a, GrpcClient(gateway.port, HOST, pem) as client:
        gateway.proxy.apply((talk(grpc_seat(a.port, tls=True), passthrough=True),))
        assert client.call(EMBED) == b"a"
        with gateway.client() as plain:
            assert plain.call(EMBED) == b"a"


def test_restarted_proxy_and_old_table_know_grpc(gateway: Gateway) -> None:
    with GrpcBackend("a") as a, gateway.client() as client:
        gateway.proxy.apply((talk(grpc_seat(a.port)),))
        (kept,) = load_routes(dump_routes((talk(grpc_seat(a.port)),)))
        assert kept == talk(grpc_seat(a.port))
        older = json.loads(dump_routes((route("tiny", 1),)))
        for name in ("grpc", "http"):
            del older["routes"][0][name]
        for name in ("grpc", "grpc_port"):
            del older["routes"][0]["stable"][0][name]
        assert load_routes(json.dumps(older)) == (route("tiny", 1),)
        gateway.proxy.ensure_running(replace=True)
        with contextlib.closing(client.channel):
            assert wait_for(lambda: client.call(EMBED) == b"a")


def test_proxy_of_an_older_release_runs_the_routes_it_was_told(gateway: Gateway) -> None:
    """It has no cluster for gRPC yet: what it serves is known all the same, and it gets one without a restart."""
    with Backend("tiny") as tiny, GrpcBackend("a") as a, gateway.client() as client:
        gateway.proxy.apply((route("tiny", tiny.port),))
        before = gateway.proxy.find_process()
        gateway.proxy._files.publish("cds", content(bootstrap.cluster(), bootstrap.passthrough_cluster()))
        wait_for(lambda: "cluster.grpc." not in str(gateway.proxy._admin._ask("/stats?filter=version_text")))
        seen = gateway.proxy.observe()
        assert (seen.ready, list(seen.applied)) == (False, [service("tiny")])
        gateway.proxy.ensure_running()
        gateway.proxy.apply((route("tiny", tiny.port), talk(grpc_seat(a.port))))
        assert client.call(EMBED) == b"a"
        assert gateway.proxy.find_process() == before


def test_service_of_http_has_the_routes_it_had() -> None:
    routes = (route("tiny", 1), route("other", 2, guarded=True, open_paths=("/x",)))
    assert "grpc" not in str(resources.route_table(routes, "example.com"))
    beside = resources.route_table((*routes, talk(grpc_seat(3))), "example.com")
    hosts = {host["name"]: host for host in beside["virtual_hosts"]}
    for host in resources.route_table(routes, "example.com")["virtual_hosts"][:-1]:
        assert hosts[host["name"]] == host
    members = endpoints.members_of((*routes, talk(grpc_seat(3))))
    assert endpoints.endpoint_table(members) == endpoints.endpoint_table(endpoints.members_of(routes))
    assert GENERATE not in str(endpoints.grpc_table(members))
