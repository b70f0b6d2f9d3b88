"""What another site can make a browser send, and what of it changes something here: nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from reconciler.web.server import WebSide
from tests.web.asking import ADA, BY_PROXY, PROXY, TOKENS, Asker, config, serving

OURS = "http://127.0.0.1:{port}"
TABLE: list[tuple[Mapping[str, str], bool]] = [
    ({"Sec-Fetch-Site": "same-origin"}, True),
    ({"Sec-Fetch-Site": "same-origin", "Origin": OURS}, True),
    ({"Sec-Fetch-Site": "same-site"}, False),
    ({"Sec-Fetch-Site": "cross-site"}, False),
    ({"Sec-Fetch-Site": "none"}, False),
    ({"Sec-Fetch-Site": ""}, False),
    ({"Sec-Fetch-Site": "cross-site", "X-Reconciler": "1"}, False),
    ({"Sec-Fetch-Site": "cross-site", "Origin": OURS}, False),
    ({"Sec-Fetch-Site": "same-origin, cross-site"}, False),
    ({"Origin": OURS}, True),
    ({"Origin": "http://LOCALHOST:{port}"}, False),
    ({"Origin": "https://127.0.0.1:{port}"}, False),
    ({"Origin": "http://127.0.0.1"}, False),
    ({"Origin": "http://127.0.0.1:1"}, False),
    ({"Origin": "http://127.0.0.1.evil.example:{port}"}, False),
    ({"Origin": "http://evil.example:{port}"}, False),
    ({"Origin": "http://127.0.0.1:{port}@evil.example"}, False),
    ({"Origin": "null"}, False),
    ({"Origin": ""}, False),
    ({"Origin": "http://[broken"}, False),
    ({"Origin": "http://evil.example", "X-Reconciler": "1"}, False),
    ({"Referer": OURS + "/"}, False),
    ({"X-Reconciler": "1"}, True),
    ({"X-Reconciler": "0"}, False),
    ({}, False),
]


def ask(asker: Asker, headers: Mapping[str, str]) -> int:
    port = str(asker.web.address[1])
    return asker.post("/logout", {}, {name: value.replace("{port}", port) for name, value in headers.items()}).status


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> WebSide:
    with serving(config(tmp_path_factory.mktemp("web"), auth={"tokens": TOKENS, "proxy": BY_PROXY})) as side:
        yield side


@pytest.mark.parametrize(("headers", "is_ours"), TABLE)
def test_request_that_changes_something_must_be_ours(web: WebSide, headers: Mapping[str, str], is_ours: bool):
    browser = Asker(web)
    browser.log_in(ADA)
    assert ask(browser, headers) == (303 if is_ours else 403)


@pytest.mark.parametrize(("headers", "is_ours"), TABLE)
def test_request_through_a_proxy_must_be_ours(web: WebSide, headers: Mapping[str, str], is_ours: bool):
    behind = Asker(web, source=PROXY, headers={"X-Forwarded-User": "zoe", "X-Forwarded-Groups": "admins"})
    assert ask(behind, headers) == (303 if is_ours else 403)


@pytest.mark.parametrize(("headers", "is_ours"), TABLE)
def test_request_with_a_token_is_no_other_sites(web: WebSide, headers: Mapping[str, str], is_ours: bool):
    """A proxy may add the token to whatever browsers send."""
    port = str(web.address[1])
    sent = {name: value.replace("{port}", port) for name, value in headers.items()}
    behind = Asker(web, headers={"Authorization": f"Bearer {ADA}"})
    answer = behind.post("/actions/sync", {}, sent)
    comes_from_no_browser = not headers.keys() & {"Sec-Fetch-Site", "Origin"}
    assert answer.status == (303 if is_ours or comes_from_no_browser else 403)


@pytest.mark.parametrize("authorization", ["Basic YTpi", "Bearer", "Negotiate x", f"Token {ADA}"])
def test_other_logins_are_no_token(web: WebSide, authorization: str):
    """Browsers add some of them by themselves."""
    browser = Asker(web)
    browser.log_in(ADA)
    answer = browser.post("/actions/sync", {}, {"Authorization": authorization, "Sec-Fetch-Site": "cross-site"})
    assert answer.status in (401, 403)


def test_headers_that_stand_twice_are_not_ours(web: WebSide):
    twice = [("Sec-Fetch-Site", "same-origin"), ("Sec-Fetch-Site", "cross-site")]
    assert Asker(web).ask("POST", "/logout", twice, "").status == 403


def test_origin_is_that_of_the_address_that_people_know(tmp_path: Path):
    with serving(config(tmp_path, url="https://models.example.com/", auth={"tokens": TOKENS})) as side:
        assert ask(Asker(side), {"Origin": "https://models.example.com"}) == 303
        assert ask(Asker(side), {"Origin": "https://models.example.com:443"}) == 303
        assert ask(Asker(side), {"Origin": "https://MODELS.example.com"}) == 303
        assert ask(Asker(side), {"Origin": "http://models.example.com"}) == 403
        assert ask(Asker(side), {"Origin": "https://models.example.com.evil.example"}) == 403


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "QUERY"])
def test_other_methods_change_nothing(web: WebSide, method: str):
    assert Asker(web).ask(method, "/logout", {"Sec-Fetch-Site": "cross-site"}).status in (400, 403, 405)


def test_preflight_of_another_site_allows_nothing(web: WebSide):
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    answer = Asker(web).ask("OPTIONS", "/logout", asked)
    assert answer.headers["access-control-allow-origin"] is None
