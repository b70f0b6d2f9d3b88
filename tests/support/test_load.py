"""The judge must see every way in which a request can be lost: a real server misbehaves in each of them."""

from __future__ import annotations

import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.judge import Answer, Caller, Question, Verdict, ways_to
from tests.support.load import Load

# It proves the judge of other slow tests.
pytestmark = pytest.mark.slow

WAYS = ways_to("default", "tiny")
TOKENS = 4
RESET = b"\0reset"
FREEZE = b"\0freeze"
Reply = Callable[[bytes, bytes], list[bytes]]


@dataclass
class Server:
    """Answers each request with what `reply(head, body)` says; RESET or FREEZE as its last part does that."""

    reply: Reply = field(default=lambda head, body: [])
    socket: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))
    connections: int = 0
    heads: list[bytes] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.socket.getsockname()[1]}"

    def serve(self) -> None:
        while True:
            try:
                peer, _ = self.socket.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self.talk, args=(peer,), daemon=True).start()

    def talk(self, peer: socket.socket) -> None:
        with peer:
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                while self.answer(peer):
                    pass
            except OSError:
                return

    def answer(self, peer: socket.socket) -> bool:
        head, body = read_request(peer)
        if not head:
            return False
        self.heads.append(head)
        self.bodies.append(body)
        for part in self.reply(head, body):
            if part == RESET:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return False
            if part == FREEZE:
                self.closing.wait(20)
                return False
            peer.sendall(part)
        return True


def read_request(peer: socket.socket) -> tuple[bytes, bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        more = peer.recv(65536)
        if not more:
            return b"", b""
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
    while len(body) < length:
        body += peer.recv(65536)
    return head, body


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    serving = Server()
    thread = threading.Thread(target=serving.serve, daemon=True)
    thread.start()
    yield serving
    serving.closing.set()
    serving.socket.shutdown(socket.SHUT_RDWR)
    serving.socket.close()
    thread.join(5)


def head(status: str, *fields: str) -> bytes:
    return "\r\n".join((f"HTTP/1.1 {status}", *fields, "", "")).encode()


def whole(status: str, body: object, *fields: str) -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return head(status, f"Content-Length: {len(data)}", *fields) + data


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(**fields: object) -> bytes:
    return chunk(b"data: " + json.dumps(fields).encode() + b"\n\n")


def choice(text: str, finish: str | None = None) -> dict[str, object]:
    return {"text": text, "index": 0, "finish_reason": finish}


STREAM_HEAD = head("200 OK", "Content-Type: text/event-stream", "Transfer-Encoding: chunked")
DONE = chunk(b"data: [DONE]\n\n")
END = b"0\r\n\r\n"


def events(finish: str = "length", tokens: int = TOKENS) -> list[bytes]:
    parts = [event(choices=[choice(f"t{number}")]) for number in range(3)]
    return [*parts, event(choices=[choice("t3", finish)]), event(choices=[], usage={"completion_tokens": tokens})]


GOOD_STREAM = [STREAM_HEAD, *events(), DONE, END]


def good_body(finish: str = "length", tokens: int = TOKENS) -> bytes:
    return whole("200 OK", {"choices": [choice("t0t1", finish)], "usage": {"completion_tokens": tokens}})


def ask(server: Server, parts: list[bytes], *, stream: bool = True, patience: float = 10.0) -> Answer:
    server.reply = lambda head, body: parts
    caller = Caller(server.url, patience)
    try:
        return caller.ask(Question(WAYS[0], TOKENS, stream))
    finally:
        caller.close()


def test_full_stream_is_ok(server: Server) -> None:
    answer = ask(server, GOOD_STREAM)
    assert (answer.verdict, answer.reason, answer.text) == (Verdict.OK, "", "t0t1t2t3")
    assert answer.first is not None
    assert 0 < answer.first <= answer.seconds


def test_full_body_is_ok(server: Server) -> None:
    answer = ask(server, [good_body()], stream=False)
    assert (answer.verdict, answer.text, answer.first) == (Verdict.OK, "t0t1", None)


BAD_STREAMS = {
    "aborted": ([STREAM_HEAD, *events("abort", 2), DONE, END], "finish_reason abort"),
    "stopped early": ([STREAM_HEAD, *events("stop"), DONE, END], "finish_reason stop"),
    "no finish": ([STREAM_HEAD, *events()[:3], *events()[4:], DONE, END], "finish_reason missing"),
    "finished twice": ([STREAM_HEAD, *events(), *events(), DONE, END], "finish_reason length, length"),
    "too few tokens": ([STREAM_HEAD, *events(tokens=3), DONE, END], "3 tokens of 4"),
    "no usage": ([STREAM_HEAD, *events()[:4], DONE, END], "None tokens of 4"),
    "no DONE": ([STREAM_HEAD, *events(), END], r"without \[DONE\]"),
    "error in data": ([STREAM_HEAD, event(error={"message": "engine died", "code": 500}), DONE, END], "engine died"),
    "error after all": ([STREAM_HEAD, *events(), event(error={"message": "late"}), DONE, END], "late"),
    "error event": ([STREAM_HEAD, chunk(b"event: error\ndata: {}\n\n"), DONE, END], "error event"),
    "after DONE": ([STREAM_HEAD, *events(), DONE, event(choices=[]), END], r"after \[DONE\]"),
    "not JSON": ([STREAM_HEAD, chunk(b"data: {oops\n\n"), DONE, END], "not JSON"),
    "not an object": ([STREAM_HEAD, chunk(b"data: 7\n\n"), DONE, END], "not a JSON object"),
    "empty": ([STREAM_HEAD, END], r"without \[DONE\]"),
    "reset before the head": ([RESET], "connection broke"),
    "reset in the middle": ([STREAM_HEAD, *events()[:2], RESET], "connection broke"),
    "reset after DONE": ([STREAM_HEAD, *events(), DONE, RESET], "connection broke"),
    "500": ([whole("500 Internal Server Error", {"error": {"message": "no futures"}})], "status 500: .*no futures"),
    "429": ([whole("429 Too Many Requests", {}, "Retry-After: 1")], "status 429"),
    "503 without Retry-After": ([whole("503 Service Unavailable", b"upstream")], "status 503: upstream"),
    "503 that never ends": ([head("503 Service Unavailable", "Retry-After: 1", "Content-Length: 9"), RESET], "broke"),
    "not HTTP": ([b"hello\r\n\r\n", RESET], "connection broke"),
}


@pytest.mark.parametrize("name", BAD_STREAMS)
def test_bad_stream_is_lost_with_its_reason(server: Server, name: str) -> None:
    parts, reason = BAD_STREAMS[name]
    answer = ask(server, parts)
    assert answer.verdict is Verdict.LOST
    assert_matches(reason, answer.reason)


def assert_matches(pattern: str, text: str) -> None:
    assert re.search(pattern, text), f"{text!r} does not match {pattern!r}"


BAD_BODIES = {
    "aborted": (good_body("abort", 2), "finish_reason abort"),
    "short": (good_body(tokens=2), "2 tokens of 4"),
    "error under 200": (whole("200 OK", {"object": "error", "message": "x"}), "error under status 200"),
    "no choices": (whole("200 OK", {}), "finish_reason missing"),
    "cut": (good_body()[:-5] + RESET, "connection broke"),
}


@pytest.mark.parametrize("name", BAD_BODIES)
def test_bad_body_is_lost_with_its_reason(server: Server, name: str) -> None:
    data, reason = BAD_BODIES[name]
    parts = [data.removesuffix(RESET), RESET] if data.endswith(RESET) else [data]
    answer = ask(server, parts, stream=False)
    assert answer.verdict is Verdict.LOST
    assert_matches(reason, answer.reason)


@pytest.mark.parametrize(
    "parts", [[FREEZE], [STREAM_HEAD, *events()[:2], FREEZE], [STREAM_HEAD, *events(), DONE, FREEZE]]
)
def test_silence_is_lost_as_frozen(server: Server, parts: list[bytes]) -> None:
    answer = ask(server, parts, patience=0.3)
    assert (answer.verdict, answer.reason) == (Verdict.LOST, "froze: no byte for 0.3 s")


def test_refusal_with_retry_after_is_not_lost(server: Server) -> None:
    answer = ask(server, [whole("503 Service Unavailable", {"error": {"message": "later"}}, "Retry-After: 2")])
    assert (answer.verdict, answer.reason) == (Verdict.REFUSED, "503, Retry-After 2")


def test_refused_connection_is_lost() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    answer = Caller(f"http://127.0.0.1:{port}", 1).ask(Question(WAYS[0], TOKENS, True))
    assert answer.verdict is Verdict.LOST
    assert "refused" in answer.reason.lower()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_stream_that_is_cut_anywhere_is_lost(server: Server, data: st.DataObject) -> None:
    whole_stream = b"".join(GOOD_STREAM)
    cut = data.draw(st.integers(0, len(whole_stream) - 1))
    answer = ask(server, [whole_stream[:cut], RESET])
    assert answer.verdict is Verdict.LOST


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 400), max_size=12))
def test_pieces_in_which_a_stream_arrives_do_not_matter(server: Server, lengths: list[int]) -> None:
    rest, parts = b"".join(GOOD_STREAM), []
    for length in lengths:
        parts.append(rest[:length])
        rest = rest[length:]
    answer = ask(server, [part for part in (*parts, rest) if part])
    assert (answer.verdict, answer.text) == (Verdict.OK, "t0t1t2t3")


def reply_to(head: bytes, body: bytes) -> list[bytes]:
    """A server in good health."""
    asked = json.loads(body)
    if asked["stream"]:
        return [STREAM_HEAD, *events(tokens=asked["max_tokens"]), DONE, END]
    return [good_body(tokens=asked["max_tokens"])]


def wait_until(claim: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not claim():
        assert time.monotonic() < deadline, "it never became true"
        time.sleep(0.01)


def test_load_keeps_its_connections_and_takes_all_three_ways(server: Server) -> None:
    server.reply = reply_to
    server.connections = 0
    server.heads.clear()
    load = Load(server.url, WAYS, streams=2, posts=2, pause=0.001).start()
    wait_until(lambda: load.tally().ok >= 40)
    tally = load.stop()
    assert (tally.lost, tally.refused, tally.requests) == (0, 0, tally.ok)
    assert server.connections == 4
    seen = b"\n".join(server.heads)
    assert b"POST /default/tiny/v1/completions" in seen
    assert b"Host: tiny-default.example.com" in seen
    assert b"POST /v1/completions" in seen
    assert 0 < tally.p50_ms <= tally.p99_ms
    assert 0 < tally.first_token_p50_ms <= tally.first_token_p99_ms
    assert str(tally) == f"requests {tally.ok}, lost 0"


def test_load_asks_refused_requests_again_and_loses_none(server: Server) -> None:
    refusals = iter(range(3))

    def reply(head: bytes, body: bytes) -> list[bytes]:
        is_refused = next(refusals, None) is not None
        refusal = whole("503 Service Unavailable", {}, "Retry-After: 1")
        return [refusal] if is_refused else reply_to(head, body)

    server.reply = reply
    load = Load(server.url, WAYS, streams=1, posts=0, pause=0.001).start()
    wait_until(lambda: load.tally().ok >= 3)
    tally = load.stop()
    assert tally.lost == 0
    assert tally.refused >= 1
    assert tally.refused_ms > 0
    assert f"refused {tally.refused}" in str(tally)


def test_load_counts_lost_requests_by_reason(server: Server) -> None:
    server.reply = lambda head, body: [STREAM_HEAD, *events("abort", 1), DONE, END]
    load = Load(server.url, WAYS, streams=2, posts=0, pause=0.001).start()
    wait_until(lambda: load.tally().lost >= 6)
    tally = load.stop()
    assert tally.ok == 0
    assert tally.reasons == {"finish_reason abort, expected length": tally.lost}
    assert f"lost {tally.lost}: finish_reason abort" in str(tally)


def test_request_that_never_ends_is_counted_when_the_load_stops(server: Server) -> None:
    server.reply = lambda head, body: [STREAM_HEAD, FREEZE]
    load = Load(server.url, WAYS, streams=1, posts=0, patience=0.3).start()
    wait_until(lambda: len(server.bodies) > 0)
    assert load.stop().lost >= 1


def test_question_asks_for_an_exact_number_of_tokens() -> None:
    asked = json.loads(Question(WAYS[2], 7, True).body())
    assert asked["max_tokens"] == 7
    assert asked["ignore_eos"] is True
    assert asked["stream_options"] == {"include_usage": True}
    assert asked["model"] == "tiny"
