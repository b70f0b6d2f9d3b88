"""The three ways in, and what Envoy answers by itself. Real Envoy."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from reconciler.config.settings import Routing
from reconciler.host.routing.envoy import EnvoyProxy
from reconciler.model import ServiceRoute
from tests.support.ports import free_port
from tests.support.proxy_parts import Answer, Backend, ask, route, seat, service, wait_for

LIMIT = 200_000
ODD = 'ö"dd %REQ(host)%\n'


@dataclass
class Gateway:
    proxy: EnvoyProxy
    port: int
    tiny: Backend
    other: Backend
    twins: tuple[Backend, Backend]
    hasty: Backend

    def table(self) -> tuple[ServiceRoute, ...]:
        """`tiny` in demo; `twin` in two namespaces; `asleep` with nothing ready; two with the same host name."""
        return (
            route("tiny", self.tiny.port, model_names=("org/base", ODD, "twin")),
            route("twin", self.twins[0].port),
            route("twin", self.twins[1].port, namespace="prod"),
            route("asleep"),
            route("a-b", namespace="c"),
            route("a", namespace="b-c"),
            route("chat", namespace="v1"),
            route("hasty", self.hasty.port, request_timeout=0.2),
        )


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    port = free_port()
    settings = Routing(listen=f"127.0.0.1:{port}", max_body_bytes=LIMIT)
    proxy = EnvoyProxy(tmp_path_factory.mktemp("proxy"), settings)
    with contextlib.ExitStack() as stack:
        tiny, other, one, two, hasty = (
            stack.enter_context(Backend(name)) for name in ("tiny", "other", "twin in demo", "twin in prod", "hasty")
        )
        stack.callback(proxy.stop)
        proxy.ensure_running()
        made = Gateway(proxy, port, tiny, other, (one, two), hasty)
        proxy.apply(made.table())
        yield made


def is_openai_error(answer: Answer, status: int, kind: str) -> str:
    """Its message, once the shape is right."""
    assert answer.status == status
    assert answer.headers["content-type"] == "application/json"
    error = answer.json["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert (error["type"], error["code"]) == (kind, status)
    return str(error["message"])


@pytest.mark.parametrize("host", ["tiny-demo.example.com", "tiny-demo.example.com:8080", "TINY-demo.Example.com."])
def test_host_name_leads_to_the_service(gateway: Gateway, host: str) -> None:
    got = ask(gateway.port, "/v1/completions", {"model": "whatever"}, host=host).json
    assert (got["name"], got["path"]) == ("tiny", "/v1/completions")


def test_host_name_leads_open_paths_of_every_method_to_the_service(gateway: Gateway) -> None:
    for method, path in (("GET", "/v1/models"), ("GET", "/health?a=b"), ("DELETE", "/v1/responses/x"), ("PUT", "/v1/")):
        got = ask(gateway.port, path, method=method, host="tiny-demo.example.com").json
        assert (got["name"], got["method"], got["path"]) == ("tiny", method, path)


def test_path_leads_to_the_service_and_is_cut_off(gateway: Gateway) -> None:
    got = ask(gateway.port, "/demo/tiny/v1/completions?x=%2F", {"model": "whatever"}).json
    assert (got["name"], got["path"]) == ("tiny", "/v1/completions?x=%2F")
    assert ask(gateway.port, "/prod/twin/health").json["path"] == "/health"


def test_path_of_a_service_is_no_prefix_of_another_word(gateway: Gateway) -> None:
    assert ask(gateway.port, "/demo/tinyx/v1/models").status == 404
    assert ask(gateway.port, "/demo/tiny/../twin/v1/models").json["name"] == "twin in demo"


@pytest.mark.parametrize("model", ["tiny", "demo/tiny", "org/base", ODD])
def test_model_leads_to_the_service(gateway: Gateway, model: str) -> None:
    got = ask(gateway.port, "/v1/chat/completions", {"prompt": "x" * 5000, "model": model}).json
    assert (got["name"], got["path"]) == ("tiny", "/v1/chat/completions")


def test_namespace_and_name_tell_twins_apart(gateway: Gateway) -> None:
    names = [ask(gateway.port, "/v1/completions", {"model": m}).json["name"] for m in ("demo/twin", "prod/twin")]
    assert names == ["twin in demo", "twin in prod"]


def test_ambiguous_name_answers_404_with_the_choices(gateway: Gateway) -> None:
    message = is_openai_error(ask(gateway.port, "/v1/completions", {"model": "twin"}), 404, "NotFoundError")
    assert "`demo/twin` or `prod/twin`" in message


def test_ambiguous_host_name_answers_404_with_the_paths(gateway: Gateway) -> None:
    answer = ask(gateway.port, "/v1/completions", {}, host="a-b-c.example.com")
    assert "/b-c/a/ or /c/a-b/" in is_openai_error(answer, 404, "NotFoundError")


def test_unknown_model_is_quoted_and_cut(gateway: Gateway) -> None:
    model = 'no"pe%REQ(host)%\n'
    message = is_openai_error(ask(gateway.port, "/v1/completions", {"model": model}), 404, "NotFoundError")
    assert model in message
    message = is_openai_error(ask(gateway.port, "/v1/completions", {"model": "y" * 900}), 404, "NotFoundError")
    assert "y" * 200 in message
    assert len(message) < 300


@pytest.mark.parametrize(
    "body", [b"{}", b'{"model": null}', b"not json", b"", b'{"model"', b'["model"]', b'"model"', b"{" * 50_000]
)
def test_body_without_a_model_answers_400(gateway: Gateway, body: bytes) -> None:
    is_openai_error(ask(gateway.port, "/v1/completions", body), 400, "BadRequestError")


@pytest.mark.parametrize("model", [5, 1.5, True, ["tiny"], {"tiny": 1}, ""])
def test_model_that_is_no_name_is_refused(gateway: Gateway, model: object) -> None:
    answer = ask(gateway.port, "/v1/completions", {"model": model})
    assert answer.status in (400, 404)
    assert answer.json["error"]["param"] == "model"


def test_body_of_another_type_answers_400(gateway: Gateway) -> None:
    answer = ask(gateway.port, "/v1/completions", b'{"model":"tiny"}', headers={"content-type": "text/plain"})
    assert "content-type application/json" in is_openai_error(answer, 400, "BadRequestError")


def test_content_type_may_name_a_charset(gateway: Gateway) -> None:
    headers = {"content-type": "Application/JSON; charset=utf-8"}
    assert ask(gateway.port, "/v1/completions", {"model": "tiny"}, headers=headers).status == 200


def test_only_post_is_routed_by_model(gateway: Gateway) -> None:
    for method in ("GET", "PUT", "DELETE", "OPTIONS"):
        answer = ask(gateway.port, "/v1/completions", method=method)
        is_openai_error(answer, 405, "MethodNotAllowedError")
        assert answer.headers["allow"] == "POST"


def test_namespace_called_v1_cannot_take_the_api_away(gateway: Gateway) -> None:
    assert ask(gateway.port, "/v1/chat/completions", {"model": "tiny"}).json["name"] == "tiny"
    assert ask(gateway.port, "/v1/chat/completions", {"model": "v1/chat"}).status == 503


@pytest.mark.parametrize("path", ["/", "/favicon.ico", "/demo/tiny", "/nobody/nothing/v1/models", "/v2/models"])
def test_unknown_place_answers_404(gateway: Gateway, path: str) -> None:
    is_openai_error(ask(gateway.port, path), 404, "NotFoundError")
    is_openai_error(ask(gateway.port, path, {"model": "tiny"}, host="nobody.example.com"), 404, "NotFoundError")


@pytest.mark.parametrize(
    ("path", "host"),
    [("/v1/completions", "x"), ("/demo/asleep/v1/completions", "x"), ("/v1/completions", "asleep-demo.example.com")],
)
def test_nothing_ready_answers_503_with_retry_after(gateway: Gateway, path: str, host: str) -> None:
    answer = ask(gateway.port, path, {"model": "asleep"}, host=host)
    assert "no replica" in is_openai_error(answer, 503, "ServiceUnavailableError")
    assert int(answer.headers["retry-after"]) > 0


@pytest.mark.parametrize("path", ["/v1/completions", "/demo/tiny/v1/completions"])
def test_body_may_be_as_large_as_the_setting_and_no_larger(gateway: Gateway, path: str) -> None:
    frame = len(json.dumps({"model": "tiny", "prompt": ""}))
    for sent, status in ((LIMIT, 200), (LIMIT + 1, 413)):
        body = json.dumps({"model": "tiny", "prompt": "x" * (sent - frame)}).encode()
        for data in (body, (body[i : i + 50_000] for i in range(0, len(body), 50_000))):
            answer = ask(gateway.port, path, data)
            assert answer.status == status
            if status == 413:
                is_openai_error(answer, 413, "BadRequestError")
            else:
                assert answer.json["length"] == LIMIT


def test_models_are_listed_by_every_accepted_id(gateway: Gateway) -> None:
    answer = ask(gateway.port, "/v1/models")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json["object"] == "list"
    entries = {entry["id"]: entry for entry in answer.json["data"]}
    assert entries.keys() >= {"tiny", "demo/tiny", "demo/twin", "prod/twin", "asleep", "demo/asleep"}
    assert "twin" not in entries
    assert entries["tiny"] == {"id": "tiny", "object": "model", "created": 0, "owned_by": "demo"}


def test_list_of_models_can_be_asked_by_head_but_not_changed(gateway: Gateway) -> None:
    head = ask(gateway.port, "/v1/models", method="HEAD")
    assert (head.status, head.body) == (200, b"")
    answer = ask(gateway.port, "/v1/models", {})
    is_openai_error(answer, 405, "MethodNotAllowedError")
    assert answer.headers["allow"] == "GET, HEAD"


def test_timeout_of_a_service_cuts_only_that_service(gateway: Gateway) -> None:
    is_openai_error(ask(gateway.port, "/v1/completions", {"model": "hasty", "sleep": 1}), 504, "TimeoutError")
    assert ask(gateway.port, "/v1/completions", {"model": "tiny", "sleep": 0.5}).status == 200


def test_request_id_is_kept_and_answered(gateway: Gateway) -> None:
    answer = ask(gateway.port, "/v1/completions", {"model": "tiny"}, headers={"x-request-id": "mine"})
    assert answer.json["headers"]["x-request-id"] == "mine"
    assert answer.headers["x-request-id"] == "mine"
    assert ask(gateway.port, "/v1/completions", {"model": "tiny"}).headers["x-request-id"]


def test_answers_carry_nothing_of_envoy(gateway: Gateway) -> None:
    served = ask(gateway.port, "/v1/completions", {"model": "tiny"})
    assert served.headers["server"] == "engine"
    for answer in (served, ask(gateway.port, "/v1/completions", {"model": "asleep"}), ask(gateway.port, "/")):
        assert not [name for name in answer.headers if "envoy" in name]
        assert "envoy" not in answer.headers.get("server", "")


def test_client_cannot_set_envoys_own_headers(gateway: Gateway) -> None:
    hostile = {"x-envoy-upstream-rq-timeout-ms": "1", "x-envoy-retry-on": "5xx"}
    answer = ask(gateway.port, "/v1/completions", {"model": "tiny", "sleep": 0.2}, headers=hostile)
    assert answer.status == 200
    assert not answer.json["headers"].keys() & hostile.keys()


def test_stream_arrives_as_it_is_made(gateway: Gateway) -> None:
    answer = ask(gateway.port, "/v1/completions", {"model": "tiny", "stream": 5})
    assert answer.body.count(b"data: ") == 6
    assert answer.headers["content-type"] == "text/event-stream"


def test_dead_replica_is_passed_over_without_a_second_request(gateway: Gateway) -> None:
    table = (route("tiny", gateway.tiny.port, free_port()), *gateway.table()[1:])
    gateway.proxy.apply(table)
    before = gateway.tiny.seen
    statuses = Counter(ask(gateway.port, "/v1/completions", {"model": "tiny"}).status for _ in range(40))
    gateway.proxy.apply(gateway.table())
    assert statuses == {200: 40}
    assert gateway.tiny.seen - before == 40


def test_request_that_reached_a_replica_is_never_sent_again(gateway: Gateway) -> None:
    with Backend("broken", breaks=True) as one, Backend("broken too", breaks=True) as two:
        gateway.proxy.apply((route("tiny", one.port, two.port), *gateway.table()[1:]))
        answers = [ask(gateway.port, "/v1/completions", {"model": "tiny"}) for _ in range(10)]
        gateway.proxy.apply(gateway.table())
        assert one.seen + two.seen == 10
    assert "closed the connection" in is_openai_error(answers[0], 503, "ServiceUnavailableError")


@pytest.mark.slow
def test_idle_connection_is_closed_by_the_proxy_before_the_engine_does(gateway: Gateway) -> None:
    # vLLM closes after 5 s; a request that meets a closing connection is lost.
    with Backend("vllm", keep_alive=5.0) as engine:
        gateway.proxy.apply((route("tiny", engine.port), *gateway.table()[1:]))
        assert ask(gateway.port, "/v1/completions", {"model": "tiny"}).status == 200
        wait_for(lambda: engine.left == 1)
        gateway.proxy.apply(gateway.table())


def shares(gateway: Gateway, asked: int) -> Counter[str]:
    return Counter(ask(gateway.port, "/v1/completions", {"model": "tiny"}).json["name"] for _ in range(asked))


def canary(gateway: Gateway, percent: int, *, stable: bool = True, drains: bool = False) -> tuple[ServiceRoute, ...]:
    tiny = service("tiny")
    route = ServiceRoute(
        tiny,
        stable=(seat(tiny, gateway.tiny.port, "1"),) if stable else (),
        canary=(seat(tiny, gateway.other.port, "2", drains),),
        canary_percent=percent,
    )
    return (route, *gateway.table()[1:])


def test_canary_gets_its_share(gateway: Gateway) -> None:
    gateway.proxy.apply(canary(gateway, 20))
    seen = shares(gateway, 600)
    gateway.proxy.apply(gateway.table())
    # Binomial: six standard deviations.
    assert abs(seen["other"] - 120) < 60
    assert seen.total() == 600


@pytest.mark.parametrize(
    ("percent", "stable", "drains", "served_by"),
    [
        (0, True, False, "tiny"),
        (100, True, False, "other"),
        (10, False, False, "other"),
        (50, True, True, "tiny"),
    ],
)
def test_side_that_cannot_serve_gets_nothing(
    gateway: Gateway, percent: int, stable: bool, drains: bool, served_by: str
) -> None:
    gateway.proxy.apply(canary(gateway, percent, stable=stable, drains=drains))
    seen = shares(gateway, 20)
    gateway.proxy.apply(gateway.table())
    assert seen == {served_by: 20}


def test_canary_without_a_share_serves_nobody_even_alone(gateway: Gateway) -> None:
    gateway.proxy.apply(canary(gateway, 0, stable=False))
    answer = ask(gateway.port, "/v1/completions", {"model": "tiny"})
    gateway.proxy.apply(gateway.table())
    assert answer.status == 503


def test_list_of_models_may_be_long(gateway: Gateway) -> None:
    gateway.proxy.apply(tuple(route(f"a-model-with-a-rather-long-name-{i}") for i in range(200)))
    answer = ask(gateway.port, "/v1/models")
    gateway.proxy.apply(gateway.table())
    assert len(answer.body) > 4096
    assert len(answer.json["data"]) == 400


def test_other_domain_is_another_table(gateway: Gateway) -> None:
    moved = EnvoyProxy(
        gateway.proxy._folder,
        Routing(listen=f"127.0.0.1:{gateway.port}", max_body_bytes=LIMIT, domain="ai.test"),
    )
    assert moved.observe().applied == {}
    moved.apply(gateway.table())
    assert ask(gateway.port, "/v1/models", host="tiny-demo.ai.test").json["name"] == "tiny"
    gateway.proxy.apply(gateway.table())
    assert gateway.proxy.observe().applied.keys() == {route.service for route in gateway.table()}


def test_of_a_guarded_service_only_what_the_engine_guards_is_let_through(gateway: Gateway) -> None:
    gateway.proxy.apply((route("tiny", gateway.tiny.port, guarded=True), route("twin", gateway.twins[0].port)))
    try:
        host = {"host": "tiny-demo.example.com"}
        assert ask(gateway.port, "/v1/completions", {}, **host).json["path"] == "/v1/completions"
        assert ask(gateway.port, "/demo/tiny/v1/models").json["path"] == "/v1/models"
        assert ask(gateway.port, "/v1/completions", {"model": "tiny"}).json["name"] == "tiny"
        seen = gateway.tiny.seen
        for refused in (
            ask(gateway.port, "/invocations", {}, **host),
            ask(gateway.port, "/v1/../invocations", {}, **host),
            ask(gateway.port, "//v1/%2e%2e/metrics", **host),
            ask(gateway.port, "/demo/tiny/metrics"),
            ask(gateway.port, "/demo/tiny/v1/../invocations", {}),
        ):
            assert "only /v1/" in is_openai_error(refused, 403, "PermissionDeniedError")
        assert gateway.tiny.seen == seen
        assert ask(gateway.port, "/demo/twin/tokenize", {}).json["path"] == "/tokenize"
    finally:
        gateway.proxy.apply(gateway.table())
