"""Which names the pages answer to, and what their answers tell browsers to refuse."""

from __future__ import annotations

import http.client
from collections.abc import Mapping
from pathlib import Path

import pytest

from reconciler.config.web import AuthSettings, TokenSettings
from reconciler.web.security import HEADERS
from reconciler.web.server import WebSide
from tests.web.asking import config, serving
from tests.web.fake_loop import FakeLoop

FOREIGN = (
    "evil.example",
    "evil.example:9464",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "localhost@evil.example",
    "10.0.0.5",
    "0.0.0.0",
    "[::1",
    "",
)
LOGIN = AuthSettings(tokens=(TokenSettings(name="alice", sha256="0" * 64),))


def ask(web: WebSide, path: str = "/", host: str | None = None, method: str = "GET") -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection(*web.address, timeout=10)
    connection.putrequest(method, path, skip_host=host is not None)
    if host is not None:
        connection.putheader("Host", host)
    connection.endheaders()
    return connection.getresponse()


def headers_of(response: http.client.HTTPResponse) -> Mapping[str, str]:
    return {name: response.headers[name] for name in HEADERS}


def test_page_answers_to_names_of_the_loopback_address(web: WebSide) -> None:
    for host in ("localhost", "LOCALHOST:9464", "page.localhost:1", "127.0.0.1:9464", "[::1]:9464", "localhost."):
        assert ask(web, host=host).status == 200, host


@pytest.mark.parametrize("path", ["/", "/gpus", "/events", "/nowhere"])
def test_page_without_login_refuses_a_name_that_is_not_its_own(web: WebSide, path: str) -> None:
    for host in FOREIGN:
        response = ask(web, path, host)
        text = response.read().decode()
        assert (response.status, headers_of(response)) == (421, HEADERS), host
        assert "web.url" in text
        assert "web.auth" in text
        assert "tiny" not in text


def test_page_answers_to_the_host_of_its_own_address(tmp_path: Path) -> None:
    with serving(config(tmp_path, url="http://models.example.com/")) as web:
        assert ask(web, host="models.example.com").status == 200
        assert ask(web, host="Models.Example.com:9464").status == 200
        assert ask(web, host="example.com").status == 421


def test_page_with_a_login_leaves_it_to_the_login(tmp_path: Path) -> None:
    with serving(config(tmp_path, auth=LOGIN)) as web:
        assert ask(web, host="anything.example").status != 421


def test_what_programs_ask_answers_to_every_name_as_before(web: WebSide) -> None:
    for path in ("/healthz", "/readyz", "/metrics", "/prometheus/sd"):
        response = ask(web, path, "prometheus-target.example:9464")
        assert (response.status, response.headers["content-security-policy"]) == (200, None), path
    assert ask(web, "/webhooks/none", "forge.example", "POST").status != 421


def test_every_answer_of_a_page_carries_the_headers(web: WebSide) -> None:
    for path, method in (("/", "GET"), ("/nowhere", "GET"), ("/static/old/page.css", "GET"), ("/", "DELETE")):
        response = ask(web, path, method=method)
        assert headers_of(response) == HEADERS, path


def test_page_that_fails_says_so_and_keeps_the_headers(web: WebSide, loop: FakeLoop) -> None:
    loop.document = {}
    response = ask(web, "/")
    assert response.status == 500
    assert "bug in the reconciler" in response.read().decode()
    assert response.headers["content-security-policy"] == HEADERS["Content-Security-Policy"]


def test_policy_lets_nothing_in_that_is_not_from_here() -> None:
    policy = dict(part.strip().split(" ", 1) for part in HEADERS["Content-Security-Policy"].split(";"))
    assert policy.pop("default-src") == "'none'"
    assert policy.pop("trusted-types") == "page"
    assert policy.pop("require-trusted-types-for") == "'script'"
    assert set(policy.values()) == {"'self'", "'none'"}


def test_address_with_a_slash_too_many_leads_nowhere(tmp_path: Path) -> None:
    """Least of all to http, where a proxy speaks TLS for us."""
    with serving(config(tmp_path, url="https://models.example.com")) as web:
        for path in ("/gpus/", "/healthz/", "/actions/sync/", "//"):
            assert ask(web, path, host="models.example.com").status == 404, path
