"""Who is known by a token or a trusted proxy, and who is not, on real sockets."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from reconciler.web.server import WebSide
from reconciler.web.visitors import Role, role_of
from tests.web.asking import ADA, BOB, BY_PROXY, PROXY, TOKENS, Asker, config, serving


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebSide]:
    """Two may log in with tokens, and a proxy may name others."""
    with serving(config(tmp_path_factory.mktemp("web"), auth={"tokens": TOKENS, "proxy": BY_PROXY})) as side:
        yield side


@pytest.fixture
def anyone(web: WebSide) -> Asker:
    return Asker(web)


@pytest.fixture
def proxy(web: WebSide) -> Asker:
    return Asker(web, source=PROXY)


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


def named(user: str, groups: str = "team") -> dict[str, str]:
    return {"X-Forwarded-User": user, "X-Forwarded-Groups": groups}


def test_browser_without_login_is_sent_to_it_and_back(anyone: Asker):
    answer = anyone.get("/gpus?sort=free%20memory")
    assert (answer.status, answer.headers["location"]) == (303, "/login?next=/gpus%3Fsort%3Dfree%2520memory")


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream", "*/*"])
def test_script_without_login_is_refused_in_json(anyone: Asker, accept: str):
    answer = anyone.get("/", {"Accept": accept})
    assert (answer.status, answer.text) == (401, '{"error":"this page needs a login"}')
    assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize("path", ["/", "/events", "/changes", "/no-such-page", "/metrics/x", "//healthz", "/static"])
def test_all_but_what_machines_ask_needs_a_login(anyone: Asker, path: str):
    assert anyone.get(path, {"Accept": "*/*"}).status == 401


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/prometheus/sd"])
def test_monitoring_needs_no_login(anyone: Asker, path: str):
    assert anyone.get(path, {"X-Forwarded-For": "10.0.0.9"}).status in (200, 503)


@pytest.mark.parametrize(
    "path", ["/static/../", "/static/x/../../events", "/webhooks/../", "/prometheus/replicas/../../events"]
)
def test_open_paths_lead_to_no_page(anyone: Asker, path: str):
    assert anyone.get(path).status == 404


@pytest.mark.parametrize(
    "path",
    [
        "/./", "//", "/gpus/", "/%67pus", "/gpus%2f", "/gpus%00", "/healthz/../gpus", "/healthz%2f..%2fgpus",
        "/healthz;/gpus",
        "/login/../gpus", "/login/%2e%2e/gpus", "/static/%2e%2e/gpus", "/webhooks/..%2fgpus", "/prometheus/%2e%2e/gpus",
        "/prometheus/replicas/../../gpus", "/static/..;/gpus", "/%2e/gpus", "/\\gpus", "/gpus?/healthz",
        "/gpus#/healthz",
        "http://localhost/gpus", "http://localhost/healthz/../gpus", "/HEALTHZ/../gpus", "/api/../gpus", "/summary",
        "/actions/sync", "/services/a/demo/tiny", "/repository", "/changes",
    ],
)  # fmt: skip
def test_no_spelling_of_a_path_opens_a_page(anyone: Asker, path: str):
    for accept in ("text/html", "application/json"):
        answer = anyone.get(path, {"Accept": accept})
        assert answer.status in (303, 307, 400, 401, 404), path
        assert "demo" not in answer.text.replace("/services/a/demo/tiny", "")


@pytest.mark.parametrize("text", [ADA, BOB])
def test_token_opens_the_pages(anyone: Asker, text: str):
    assert anyone.get("/", bearer(text)).status == 200


@pytest.mark.parametrize("text", ["", "x", ADA + "x", ADA[:-1], TOKENS[0]["sha256"], "\u00e4", "a" * 5000])
def test_forged_token_is_refused(anyone: Asker, text: str):
    text = text.encode().decode("latin-1")
    assert anyone.get("/", {**bearer(text), "Accept": "application/json"}).status == 401


def test_forged_token_is_refused_although_a_session_holds(anyone: Asker):
    anyone.log_in(ADA)
    assert anyone.get("/").status == 200
    assert anyone.get("/", {**bearer("x"), "Accept": "*/*"}).status == 401


def test_two_authorization_headers_are_refused(anyone: Asker):
    twice = [("Authorization", f"Bearer {ADA}"), ("Authorization", f"Bearer {BOB}"), ("Accept", "*/*")]
    assert anyone.get("/", twice).status == 401


def test_who_guesses_tokens_is_not_told_any_more(tmp_path: Path):
    script = {"Accept": "application/json"}
    with serving(config(tmp_path, auth={"tokens": TOKENS})) as side:
        anyone = Asker(side)
        statuses = [anyone.get("/", {**bearer(str(each)), **script}).status for each in range(31)]
        assert statuses == [401] * 30 + [429]
        refused = anyone.get("/", {**bearer(ADA), **script})
        assert refused.status == 429
        assert 0 < int(refused.headers["retry-after"]) <= 61
        assert anyone.log_in(ADA).status == 429
        assert Asker(side, source="127.0.0.3").get("/", bearer(ADA)).status == 200


def test_proxy_names_who_asks(proxy: Asker):
    answer = proxy.get("/", named("zoë".encode().decode("latin-1")))
    assert answer.status == 200
    assert "zoë" in answer.text


@pytest.mark.parametrize("sign", ["\u00a0", "\u200b", "\u202e", "\u3000"])
def test_name_that_looks_like_anothers_is_nobodys(proxy: Asker, sign: str):
    for name in (f"zoe{sign}", f"{sign}zoe", f"z{sign}oe"):
        text = name.encode().decode("latin-1")
        assert proxy.get("/", [("X-Forwarded-User", text), ("X-Forwarded-Groups", "team")]).status in (303, 401), name


@pytest.mark.parametrize("source", ["127.0.0.1", "127.0.0.3"])
def test_headers_of_anybody_else_are_ignored(web: WebSide, source: str):
    spoofed = named("root", "admins") | {"X-Forwarded-For": PROXY, "Forwarded": f"for={PROXY}", "X-Real-IP": PROXY}
    assert Asker(web, source=source).get("/", {**spoofed, "Accept": "*/*"}).status == 401


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("X-Forwarded-User", "")],
        [("X-Forwarded-User", "  ")],
        [("X-Forwarded-User", "eve"), ("X-Forwarded-User", "ada")],
        [("X-Forwarded-User", "a" * 257)],
        [("X-Forwarded-User", "a\x7fb")],
        [("X_Forwarded_User", "ada")],
        [("X-Forwarded-Groups", "admins")],
    ],
)
def test_proxy_that_names_nobody_has_logged_nobody_in(proxy: Asker, headers: list[tuple[str, str]]):
    assert proxy.get("/", [*headers, ("X-Forwarded-Groups", "team"), ("Accept", "*/*")]).status == 401


@pytest.mark.parametrize("groups", ["", "other", "teams", "Team", "*"])
def test_who_is_in_no_group_is_told_so(proxy: Asker, groups: str):
    answer = proxy.get("/", named("eve", groups))
    assert answer.status == 403
    assert "you are eve, and in none of the groups of web.auth.proxy.viewers" in answer.text


def test_groups_that_stand_twice_are_none(proxy: Asker):
    twice = [("X-Forwarded-User", "eve"), ("X-Forwarded-Groups", "team"), ("X-Forwarded-Groups", "admins")]
    assert proxy.get("/", twice).status == 403


def test_proxy_passes_on_tokens_of_its_own_login(proxy: Asker):
    for _ in range(40):
        assert proxy.get("/", named("zoe") | bearer("a token of the identity provider")).status == 200


@pytest.mark.parametrize("header", ["X-Forwarded-For", "X-Forwarded-Host", "Forwarded", "Via", "X-Real-IP"])
def test_without_login_nobody_sees_the_pages_through_a_proxy(tmp_path: Path, header: str):
    with serving(config(tmp_path)) as side:
        assert Asker(side).get("/").status == 200
        answer = Asker(side).get("/", {header: "10.0.0.9"})
        assert (answer.status, "web.auth.tokens" in answer.text) == (403, True)


def test_without_login_nobody_sees_the_pages_through_an_old_proxy(tmp_path: Path):
    """As nginx speaks to us where nothing else is configured."""
    with serving(config(tmp_path)) as side, socket.create_connection(side.address, timeout=10) as connection:
        connection.sendall(b"GET / HTTP/1.0\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 403 ")


def test_without_login_no_other_machine_sees_the_pages(tmp_path: Path):
    with serving(config(tmp_path, listen="0.0.0.0:0")) as side:
        assert Asker(side, address="127.0.0.1").get("/").status == 200
        # By this machine's address in its network, as others reach it, and as a sidecar beside us does.
        for source in ("", "127.0.0.1"):
            answer = Asker(side, source=source, address=own_address()).get("/", {"Host": "localhost"})
            assert (answer.status, "web.auth.tokens" in answer.text) == (403, True)


def own_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address but loopback")
        return str(probe.getsockname()[0])


GROUPS = st.lists(st.sampled_from(["a", "b", "c", "*"]), max_size=3)


@given(GROUPS, GROUPS, GROUPS)
def test_operators_may_what_viewers_may(groups: list[str], viewers: list[str], operators: list[str]):
    role = role_of(groups, viewers, operators)
    assert (role is Role.OPERATOR) == ("*" in operators or bool(set(groups) & set(operators)))
    assert (role is None) == (not {"*", *groups} & {*viewers, *operators})


def test_strangers_do_not_fill_the_log(tmp_path: Path):
    with serving(config(tmp_path, auth={"tokens": TOKENS})) as side, capture_logs() as lines:
        for number in range(40):
            source = f"127.0.1.{number + 1}"
            Asker(side, source=source).get("/", {**bearer("x fake=line"), "Accept": "*/*"})
            Asker(side, source=source).post("/login", {"token": ADA}, {"Sec-Fetch-Site": "cross-site"})
    events = [line["event"] for line in lines]
    assert {event: events.count(event) for event in events} == {
        "login": 20,
        "login_lines_left_out": 1,
        "cross_site_refused": 20,
        "cross_site_lines_left_out": 1,
    }
    assert "fake" not in str(lines)
