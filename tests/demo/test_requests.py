"""The demo's stream of requests on a real server: what counts as answered, and what as lost."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

import pytest

from reconciler.demo.requests import Lost, Requests, complete


def body(tokens: int) -> bytes:
    return json.dumps({"choices": [{"text": "hi"}], "usage": {"completion_tokens": tokens}}).encode()


class Server(ThreadingHTTPServer):
    """Answers every request with `status`, `headers` and `said`; without a status it hangs up."""

    daemon_threads = True
    status = 200
    headers: dict[str, str] = {}  # noqa: RUF012
    said = body(16)

    @property
    def url(self) -> str:
        return f"127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        server = cast(Server, self.server)
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not server.status:
            self.close_connection = True
            return
        assert (self.path, asked["model"], asked["max_tokens"]) == ("/default/tiny/v1/completions", "tiny", 16)
        self.send_response(server.status)
        for name, value in {"Content-Length": str(len(server.said)), **server.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(server.said)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.05,))
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def ask(server: Server) -> str | None:
    return complete(HTTPConnection(server.url, timeout=10), "/default/tiny/v1/completions", "tiny")


def test_whole_answer_counts_and_a_refusal_is_not_lost(server: Server) -> None:
    assert ask(server) == "hi"
    server.status, server.headers = 503, {"Retry-After": "1"}
    assert ask(server) is None


@pytest.mark.parametrize(
    ("status", "said", "why"),
    [
        (200, body(7), "7 tokens of 16"),
        (200, b'{"error": "EngineCore died"}', "status 200: .*EngineCore died"),
        (200, b"data: [DONE]", "status 200"),
        (503, b"no healthy upstream", "status 503: no healthy upstream"),
        (0, b"", "RemoteDisconnected"),
    ],
)
def test_answer_that_is_not_whole_is_lost(server: Server, status: int, said: bytes, why: str) -> None:
    server.status, server.said = status, said
    with pytest.raises(Lost, match=why):
        ask(server)


def test_stream_of_requests_counts_what_was_lost(server: Server) -> None:
    with Requests(server.url, "/default/tiny/v1/completions", "tiny") as requests:
        assert requests.await_answers(2, 30)
        server.said = body(3)
        assert requests.await_answers(2, 30)
        server.said = body(16)
        assert requests.await_answers(2, 30)
    assert requests.answered >= 3
    assert 1 <= len(requests.lost) <= 3
    assert str(requests) == f"requests {requests.answered + len(requests.lost)}, lost {len(requests.lost)}"


def test_stream_without_any_outcome_is_seen(server: Server) -> None:
    server.status, server.headers = 503, {"Retry-After": "1"}
    with Requests(server.url, "/default/tiny/v1/completions", "tiny") as requests:
        assert not requests.await_answers(1, 0.5)
