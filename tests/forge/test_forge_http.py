"""One forge over HTTPS: what an answer means."""

from __future__ import annotations

import gzip
import time
from collections.abc import Iterator
from typing import Any, Literal

import pytest
from hypothesis import given

from reconciler.errors import ReconcileError
from reconciler.forge import http
from reconciler.forge.http import ForgeAway, ForgeRefused, LoginRefused, Request
from tests.forge.local_forge import SLOWLY, LocalForge, Reply, local_forge
from tests.forge.test_answers import JSON


@pytest.fixture(scope="module")
def forge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalForge]:
    with local_forge(tmp_path_factory.mktemp("pki"), lambda asked: Reply()) as server:
        yield server


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"message": "no such repository", "url": "https://docs"}, "no such repository"),
        ({"type": "error", "error": {"message": "key: too long", "detail": "40"}}, "key: too long"),
        ({"errors": [{"context": None, "message": "You are not permitted"}]}, "You are not permitted"),
        ({"message": {"ref": ["does not exist"]}}, '{"message": {"ref": ["does not exist"]}}'),
        ({"errors": []}, '{"errors": []}'),
        (b"<html>\nBad gateway</html>", "<html> Bad gateway</html>"),
    ],
)
def test_error_is_told_in_the_forges_words(forge: LocalForge, body: Any, says: str) -> None:
    forge.answer = lambda asked: Reply(422, body)
    with pytest.raises(ForgeRefused) as raised:
        forge.http().ask(Request("GET", "/x"))
    assert str(raised.value) == f"the forge: GET /x: 422 {says}"


def test_page_of_a_proxy_is_no_success(forge: LocalForge) -> None:
    forge.answer = lambda asked: Reply(200, b"<html>Back soon</html>")
    with pytest.raises(ForgeAway, match="a page came instead of JSON"):
        forge.http().ask(Request("POST", "/x"))


@given(body=JSON)
def test_any_error_is_read(forge: LocalForge, body: Any) -> None:
    forge.answer = lambda asked: Reply(422, body)
    with pytest.raises(ForgeRefused, match="422"):
        forge.http().ask(Request("GET", "/x"))


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (203, LoginRefused),
        (302, ForgeAway),
        (400, ForgeRefused),
        (401, LoginRefused),
        (403, LoginRefused),
        (404, ForgeRefused),
        (409, ForgeAway),
        (422, ForgeRefused),
        (500, ForgeAway),
        (503, ForgeAway),
    ],
)
def test_status_says_if_trying_again_helps(forge: LocalForge, status: int, kind: type[ReconcileError]) -> None:
    forge.answer = lambda asked: Reply(status, {"message": "no"}, {"Location": "https://elsewhere.example.com/"})
    with pytest.raises(kind):
        forge.http().ask(Request("GET", "/x"))


@pytest.mark.parametrize("part", ["head", "body"])
def test_answer_that_drips_ends_with_the_timeout(forge: LocalForge, part: Literal["head", "body"]) -> None:
    """Each byte comes in time, and all of them too late."""
    forge.answer = lambda asked: Reply(200, [0] * 30, slow=part)
    hurried = forge.http(timeout=10 * SLOWLY)
    with pytest.raises(ForgeAway, match="timed out"):
        hurried.ask(Request("GET", "/x"))
    forge.answer = lambda asked: Reply(200, [1])
    assert forge.http().ask(Request("GET", "/x")).body == [1]


def test_connection_that_waited_is_used_again(forge: LocalForge) -> None:
    forge.answer = lambda asked: Reply(200, [1])
    hurried = forge.http(timeout=10 * SLOWLY)
    for _ in range(3):
        assert hurried.ask(Request("GET", "/x")).body == [1]
        time.sleep(11 * SLOWLY)


def test_compressed_answer_is_not_unpacked(forge: LocalForge) -> None:
    """None was asked for, and a few bytes could become gigabytes."""
    packed = gzip.compress(b" " * (64 << 20) + b"[]", 1)
    forge.answer = lambda asked: Reply(200, packed, {"Content-Encoding": "gzip"})
    with pytest.raises(ForgeAway, match="a page came instead of JSON"):
        forge.http().ask(Request("GET", "/x"))


def test_error_without_end_is_not_looked_through(forge: LocalForge, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = list[int]()

    def scrub(text: str) -> str:
        lengths.append(len(text))
        return text

    monkeypatch.setattr(http, "scrub_text", scrub)
    forge.answer = lambda asked: Reply(422, {"message": "x" * (4 << 20)})
    with pytest.raises(ForgeRefused):
        forge.http().ask(Request("GET", "/x"))
    assert max(lengths) < 10_000
