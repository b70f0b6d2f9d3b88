"""Webhooks on the daemon's real HTTP side, with a loop that only notes what it is asked."""

from __future__ import annotations

import gzip
import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from reconciler.web.metrics import Metrics
from reconciler.web.server import WebSide
from reconciler.web.webhooks.events import read_event
from reconciler.web.webhooks.routes import MOST_BYTES, WebhookResult
from tests.support.examples import examples
from tests.support.world import eventually
from tests.web.fake_loop import FakeLoop
from tests.web.test_web import get
from tests.web.webhook_senders import (
    SECRET,
    SECRETS,
    SIGNING_TOKEN,
    configured,
    post,
    pull_request,
    push,
    send,
    signature,
)

NAMES = sorted(SECRETS)
REFUSAL = "this request does not bear the signature of this webhook's secret\n"


class Receiver:
    """A web side whose webhooks ask a loop that only notes it."""

    def __init__(self, folder: Path, **source: Any) -> None:
        self.folder = folder
        self.loop = FakeLoop()
        self.web = WebSide(configured(folder, **source), self.loop, Metrics())
        self.web.start()

    @property
    def address(self) -> tuple[str, int]:
        return self.web.address

    @property
    def asked(self) -> list[str]:
        return [what for what, _ in self.loop.asked]

    def counted(self, name: str, result: WebhookResult) -> int:
        wanted = f'reconciler_webhook_requests_total{{result="{result}",webhook="{name}"}} '
        lines = get(self.web, "/metrics")[1].splitlines()
        return int(float(next((line.removeprefix(wanted) for line in lines if line.startswith(wanted)), "0")))

    def raw(self, *pieces: bytes) -> socket.socket:
        connection = socket.create_connection(self.address, 10)
        for piece in pieces:
            with suppress(OSError):
                connection.sendall(piece)
        return connection


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    made = Receiver(tmp_path)
    yield made
    made.web.stop()


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every webhook is passed on at once."""
    monkeypatch.setattr("reconciler.web.webhooks.routes._LEAST_SECONDS", 0.0)


def head(name: str, *lines: str, method: str = "POST") -> bytes:
    return "\r\n".join([f"{method} /webhooks/{name} HTTP/1.1", "Host: a", *lines, "", ""]).encode("latin-1")


def signed_lines(name: str, body: bytes, said: dict[str, str] | None = None) -> list[str]:
    return [f"{key}: {value}" for key, value in (signature(name, body) | (said or {})).items()]


def status_of_answer(connection: socket.socket) -> int:
    with connection:
        connection.settimeout(10)
        return int(connection.recv(1 << 16).split(b" ")[1])


# ---------------------------------------------------------------- who is believed


@pytest.mark.parametrize("name", NAMES)
def test_signed_push_of_each_forge_asks_git_at_once(receiver: Receiver, name: str) -> None:
    assert send(receiver.address, name, push(name)) == 202
    assert receiver.asked == ["push"]
    assert receiver.counted(name, WebhookResult.SOURCE_ASKED) == 1


@pytest.mark.parametrize("name", NAMES)
def test_refusal_is_the_same_for_all_reasons_and_asks_nothing(receiver: Receiver, name: str) -> None:
    said, payload = push(name)
    body = json.dumps(payload).encode()
    other = "whsec_QUJDRA==" if name == "gitlab-signed" else "guessed"
    reasons = [{}, signature(name, body, other), dict.fromkeys(signature(name, body), "")]
    if name != "gitlab":
        reasons.append(signature(name, body + b" "))
    assert [post(receiver.address, name, body, said | headers) for headers in reasons] == [(403, REFUSAL)] * len(
        reasons
    )
    assert receiver.asked == []
    assert receiver.counted(name, WebhookResult.FORBIDDEN) == len(reasons)


def test_unknown_webhook_is_not_found_and_none_is_named(receiver: Receiver) -> None:
    status, text = post(receiver.address, "nobody", b"{}", {})
    assert status == 404
    assert not any(name in text for name in NAMES)


def test_other_methods_are_not_allowed_for_known_and_unknown_names(receiver: Receiver) -> None:
    for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS"):
        assert [get(receiver.web, f"/webhooks/{name}", method)[0] for name in ("github", "nobody")] == [405, 405]


def test_without_webhooks_there_is_no_path_for_them(tmp_path: Path) -> None:
    config = configured(tmp_path)
    web = WebSide(
        config.model_copy(update={"web": config.web.model_copy(update={"webhooks": ()})}), FakeLoop(), Metrics()
    )
    web.start()
    try:
        assert send(web.address, "github", push("github")) == 404
    finally:
        web.stop()


def test_rotated_secret_counts_from_the_next_request_on(receiver: Receiver) -> None:
    assert send(receiver.address, "github", push("github")) == 202
    (receiver.folder / "github").write_text("another one\n")
    assert send(receiver.address, "github", push("github")) == 403
    assert send(receiver.address, "github", push("github"), "another one") == 202


def test_replaced_signing_token_counts_from_the_next_request_on(receiver: Receiver) -> None:
    """Also where GitLab is changed from one way to the other."""
    (receiver.folder / "new").write_text(SIGNING_TOKEN)
    (receiver.folder / "new").replace(receiver.folder / "gitlab")
    assert send(receiver.address, "gitlab", push("gitlab"), SECRET) == 403
    assert send(receiver.address, "gitlab", push("gitlab"), SIGNING_TOKEN) == 403
    body = json.dumps(push("gitlab")[1]).encode()
    assert post(receiver.address, "gitlab", body, signature("gitlab-signed", body))[0] == 202


def test_secret_that_cannot_be_read_is_reported_once(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reconciler.config.secret_files._AGAIN_SECONDS", 0.0)
    file = receiver.folder / "github"
    with capture_logs() as lines:
        for spoil in (file.unlink, lambda: file.write_text(""), lambda: file.write_bytes(b"\xff")):
            spoil()
            assert [send(receiver.address, "github", push("github")) for _ in range(3)] == [503] * 3
        file.write_text(SECRET)
        assert send(receiver.address, "github", push("github")) == 202
    assert [line["event"] for line in lines] == ["webhook_secret_failed"] * 3 + ["webhook_received"]
    assert all(str(file) in line["error"] for line in lines[:3])
    assert receiver.counted("github", WebhookResult.NO_SECRET) == 9


def test_secret_is_read_once_for_many_requests(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    from reconciler.config import secret_files

    read, reads = secret_files.read_secret, []
    monkeypatch.setattr(secret_files, "read_secret", lambda *a: reads.append(a) or read(*a))
    assert [post(receiver.address, "github", b"{}", {})[0] for _ in range(20)] == [403] * 20
    (receiver.folder / "github").unlink()
    assert [post(receiver.address, "github", b"{}", {})[0] for _ in range(20)] == [503] * 20
    assert len(reads) <= 3


# ---------------------------------------------------------------- what is read of a body


def test_cve_2024_40634_huge_body_is_refused(receiver: Receiver) -> None:
    """Argo CD read as much as came. Neither what is announced nor what only comes is read here beyond 1 MiB."""
    announced = receiver.raw(head("github", f"Content-Length: {MOST_BYTES + 1}", *signed_lines("github", b"")))
    assert status_of_answer(announced) == 413
    piece = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    endless = receiver.raw(head("github", "Transfer-Encoding: chunked", *signed_lines("github", b"")), *[piece] * 17)
    assert status_of_answer(endless) == 413
    assert receiver.counted("github", WebhookResult.TOO_LARGE) == 2
    assert receiver.asked == []


def test_largest_body_is_taken(receiver: Receiver) -> None:
    body = b'{"x": "' + b"y" * (MOST_BYTES - 9) + b'"}'
    assert len(body) == MOST_BYTES
    assert post(receiver.address, "github", body, signature("github", body))[0] == 202


@pytest.mark.parametrize("name", NAMES)
def test_cve_2026_42294_body_is_not_read_before_who_sends_it_is_known(receiver: Receiver, name: str) -> None:
    """Argo Workflows read it first. Here the answer comes before any of it was sent."""
    assert status_of_answer(receiver.raw(head(name, f"Content-Length: {MOST_BYTES}"))) == 403


def test_body_in_chunks_is_taken(receiver: Receiver) -> None:
    said, payload = push("github")
    body = json.dumps(payload).encode()
    chunks = b"".join(b"%x\r\n%s\r\n" % (1, body[i : i + 1]) for i in range(len(body))) + b"0\r\n\r\n"
    lines = signed_lines("github", body, said)
    assert status_of_answer(receiver.raw(head("github", "Transfer-Encoding: chunked", *lines), chunks)) == 202


def test_sender_who_waits_for_a_word_before_the_body_gets_it_or_the_refusal(receiver: Receiver) -> None:
    body = json.dumps(push("github")[1]).encode()
    waits = [f"Content-Length: {len(body)}", "Expect: 100-continue"]
    with receiver.raw(head("github", *waits, *signed_lines("github", body))) as connection:
        connection.settimeout(10)
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 100 ")
        connection.sendall(body)
        assert b" 202 " in connection.recv(1 << 16)
    assert status_of_answer(receiver.raw(head("github", *waits))) == 403


def test_nothing_is_understood_of_a_body_that_is_not_believed(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    understood: list[bytes] = []
    monkeypatch.setattr(
        "reconciler.web.webhooks.routes.read_event", lambda *a: understood.append(a[-1]) or read_event(*a)
    )
    for name in NAMES:
        assert send(receiver.address, name, push(name), "whsec_QUJDRA==") == 403
    assert understood == []
    assert send(receiver.address, "github", push("github")) == 202
    assert len(understood) == 1


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "identity, gzip", "GZIP"])
def test_compressed_body_is_refused(receiver: Receiver, encoding: str) -> None:
    body = gzip.compress(b"{}")
    headers = signature("github", body) | {"Content-Encoding": encoding}
    assert post(receiver.address, "github", body, headers)[0] == 415
    assert receiver.asked == []


def test_body_longer_than_its_length_is_cut_there(receiver: Receiver) -> None:
    body = json.dumps(push("github")[1]).encode()
    lines = signed_lines("github", body)
    assert status_of_answer(receiver.raw(head("github", f"Content-Length: {len(body)}", *lines), body + b"more")) == 202
    assert status_of_answer(receiver.raw(head("github", "Content-Length: 2", *lines), body)) == 403


@pytest.mark.parametrize("lines", [["Content-Length: -1"], ["Content-Length: 9x"], ["Content-Length: 1, 2"]])
def test_length_that_is_none_is_a_bad_request(receiver: Receiver, lines: list[str]) -> None:
    assert status_of_answer(receiver.raw(head("github", *lines), b"{}")) == 400


def test_body_that_ends_early_asks_nothing_and_is_no_fault(receiver: Receiver) -> None:
    body = json.dumps(push("github")[1]).encode()
    with capture_logs() as lines:
        receiver.raw(head("github", f"Content-Length: {len(body) + 1}", *signed_lines("github", body)), body).close()
        eventually(lambda: receiver.counted("github", WebhookResult.INCOMPLETE))
    assert [line["log_level"] for line in lines] == ["warning"]
    assert receiver.asked == []


@pytest.mark.parametrize("framing", ["Content-Length: 9", "Transfer-Encoding: chunked"])
def test_body_that_never_comes_is_not_waited_for(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, framing: str
) -> None:
    monkeypatch.setattr("reconciler.web.connections._ASK_SECONDS", 0.2)
    with receiver.raw(head("github", framing, *signed_lines("github", b""))) as silent, suppress(ConnectionResetError):
        assert silent.recv(1) == b""
    assert receiver.counted("github", WebhookResult.INCOMPLETE) == 1


# ---------------------------------------------------------------- what follows


def test_push_to_another_repository_or_ref_is_ignored(receiver: Receiver) -> None:
    assert send(receiver.address, "github", push("github", "acme/other")) == 202
    assert send(receiver.address, "github", push("github", ref="refs/heads/mine")) == 202
    assert receiver.asked == []
    assert (
        receiver.counted("github", WebhookResult.OTHER_REPOSITORY)
        == receiver.counted("github", WebhookResult.OTHER_REF)
        == 1
    )


@pytest.mark.parametrize("name", [name for name in NAMES if name != "generic"])
def test_pull_request_wakes_who_looks_at_them_and_not_git(receiver: Receiver, name: str) -> None:
    assert send(receiver.address, name, pull_request(name, "acme/other")) == 202
    assert receiver.asked == []
    assert send(receiver.address, name, pull_request(name)) == 202
    assert receiver.asked == ["pull request"]


def test_ping_is_accepted_and_asks_nothing(receiver: Receiver) -> None:
    assert send(receiver.address, "github", ({"X-GitHub-Event": "ping"}, {"zen": "x", "hook_id": 1})) == 202
    assert send(receiver.address, "bitbucket", ({"X-Event-Key": "diagnostics:ping"}, {"test": True})) == 202
    assert receiver.asked == []


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"payload=%7B%7D", b"[" * 100_000])
def test_signed_body_that_cannot_be_read_asks_to_be_safe(receiver: Receiver, body: bytes) -> None:
    """Whoever signed it may well have pushed."""
    assert post(receiver.address, "github", body, signature("github", body))[0] == 202
    assert receiver.asked == ["push", "pull request"]
    assert receiver.counted("github", WebhookResult.UNREADABLE) == 1


def test_burst_asks_once_now_and_once_when_it_is_over(receiver: Receiver) -> None:
    """Also what is replayed: no one makes us ask the forge more than once a second."""
    assert [send(receiver.address, "github", push("github")) for _ in range(30)] == [202] * 30
    assert receiver.asked.count("push") <= 2
    eventually(lambda: receiver.asked == ["push"] * 2)
    assert receiver.counted("github", WebhookResult.SOURCE_ASKED) == 30


def test_pushes_apart_are_each_passed_on(receiver: Receiver, unhurried: None) -> None:
    assert [send(receiver.address, name, push(name)) for name in NAMES] == [202] * len(NAMES)
    assert receiver.asked == ["push"] * len(NAMES)


# ---------------------------------------------------------------- what is logged


def test_strangers_cannot_fill_the_log(receiver: Receiver) -> None:
    with capture_logs() as lines:
        for _ in range(60):
            assert post(receiver.address, "github", b"{}", {})[0] == 403
            assert post(receiver.address, "nobody", b"{}", {})[0] == 404
            assert send(receiver.address, "gitea", push("gitea")) == 202
    assert len(lines) <= 2 * 21
    assert {line["event"] for line in lines} == {"webhook_refused", "webhook_received", "webhook_lines_left_out"}


def test_log_of_a_webhook_is_short_and_printable(receiver: Receiver) -> None:
    odd = "acme/models\x1b[2J\n\u202e\ud800" + "x" * 300
    with capture_logs() as lines:
        assert send(receiver.address, "github", push("github", odd)) == 202
        assert send(receiver.address, "github", push("github", odd * 50)) == 202
    assert [(line["webhook"], line["result"]) for line in lines] == [
        ("github", WebhookResult.OTHER_REPOSITORY),
        ("github", WebhookResult.SOURCE_ASKED),
    ]
    shown = lines[0]["repository"]
    assert shown.startswith("acme/models ")
    assert len(shown) <= 200
    assert shown.isprintable()
    shown.encode()


@pytest.mark.parametrize(
    "said",
    [
        b"POST /webhooks/github\r\n\r\n",
        b"\x16\x03\x01\x00",
        head("github", "Transfer-Encoding: chunked", f"X-Hub-Signature-256: sha256={'0' * 64}") + b"zz\r\n",
        head("github", "Transfer-Encoding: chunked") + b"zz\r\n",
        head("nobody", "Transfer-Encoding: chunked") + b"zz\r\n",
        head("github", "Connection: Upgrade", "Upgrade: websocket"),
        head("github", "Expect: 100-continue", "Content-Length: 5") + b"xx",
        head("github", "Content-Length: 5", "Transfer-Encoding: chunked") + b"0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        head("github", "Content-Length: 2") + b"{}" + head("github", "Content-Length: 2") + b"{}" + b"\0",
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_malformed_requests_of_strangers_write_no_line_of_a_library(
    receiver: Receiver, said: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    from reconciler.config.settings import Log
    from reconciler.report.log import configure

    configure(Log())
    for _ in range(3):
        with receiver.raw(said) as connection, suppress(OSError):
            connection.settimeout(1)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(1 << 16):
                pass
    assert get(receiver.web, "/healthz")[0] == 200
    written = capfd.readouterr().err
    assert "library_message" not in written
    assert "Traceback" not in written


# ---------------------------------------------------------------- whatever comes

header_names = st.sampled_from(
    ("X-GitHub-Event", "X-Gitea-Event", "X-Event-Key", "X-Hub-Signature-256", "X-Gitlab-Token", "Content-Encoding", "X")
)
header_texts = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=30)
fuzzed = settings(max_examples=examples(200), suppress_health_check=[HealthCheck.function_scoped_fixture])
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=20,
)


@fuzzed
@given(
    name=st.sampled_from([*NAMES, "nobody"]),
    headers=st.dictionaries(header_names, header_texts, max_size=4),
    body=st.binary(max_size=400),
)
def test_no_stranger_causes_an_error_of_ours(
    receiver: Receiver, name: str, headers: dict[str, str], body: bytes
) -> None:
    said = {key: value.encode("latin-1").strip() for key, value in headers.items()}
    assert post(receiver.address, name, body, said)[0] in (403, 404, 413, 415)  # type: ignore[arg-type]
    assert receiver.asked == []


@fuzzed
@given(name=st.sampled_from(NAMES), headers=st.dictionaries(header_names, header_texts, max_size=4), payload=anything)
def test_nothing_that_is_signed_causes_an_error_of_ours(
    receiver: Receiver, name: str, headers: dict[str, str], payload: Any
) -> None:
    body = json.dumps(payload).encode()
    headers.pop("Content-Encoding", None)
    said = {key: value.encode("latin-1").strip() for key, value in headers.items()} | signature(name, body)
    assert post(receiver.address, name, body, said)[0] == 202  # type: ignore[arg-type]


@fuzzed
@given(said=st.binary(max_size=300), method=st.sampled_from(["POST", "GET", "P\0ST"]), chunked=st.booleans())
def test_no_bytes_cause_an_error_of_ours(receiver: Receiver, said: bytes, method: str, chunked: bool) -> None:
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(said)}"
    with receiver.raw(head("github", framing, method=method) + said) as connection, suppress(ConnectionResetError):
        connection.settimeout(10)
        connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(1 << 16)
        assert not answer or int(answer.split(b" ")[1]) < 500
