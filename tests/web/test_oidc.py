"""Login with an identity provider whose answers are the test's: who gets in, who does not, and what they read."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from reconciler.config.settings import Settings
from reconciler.errors import SettingsError
from reconciler.report.redact import one_line
from reconciler.web.bounded_log import MOST_LINES
from reconciler.web.login import oidc
from reconciler.web.login.identity_provider import IdentityProvider
from reconciler.web.login.oidc import LASTS, LoggedIn, LoginFailed, OidcLogin, groups_in, name_in
from reconciler.web.metrics import Metrics
from reconciler.web.server import WebSide
from reconciler.web.visitors import Role
from tests.forge.local_forge import Reply
from tests.web.asking import Asker, config, serving
from tests.web.fake_loop import FakeLoop
from tests.web.own_provider import CLIENT, PAGE, SECRET, OwnProvider, published


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnProvider]:
    with OwnProvider(tmp_path_factory.mktemp("provider")).running() as provider:
        yield provider


@pytest.fixture
def provider(running: OwnProvider) -> OwnProvider:
    running.reset()
    running.server.asked.clear()
    return running


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def login_at(provider: OwnProvider, **settings: Any) -> OidcLogin:
    return OidcLogin(provider.settings(**settings), PAGE)


def come_back(login: OidcLogin, provider: OwnProvider, **changes: str | None) -> LoggedIn:
    begun = login.begin("/gpus")
    return login.finish(provider.returned(begun.location, **changes), begun.cookie)


def refused(login: OidcLogin, provider: OwnProvider, **changes: str | None) -> LoginFailed:
    with pytest.raises(LoginFailed) as found:
        come_back(login, provider, **changes)
    return found.value


def form(provider: OwnProvider) -> dict[str, str]:
    """What was sent for the last code."""
    return {name: values[0] for name, values in parse_qs(provider.asked("/token")[-1].raw.decode()).items()}


def _challenge(verifier: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


def test_person_in_a_group_gets_its_role_and_the_page_they_wanted(provider: OwnProvider):
    found = come_back(login_at(provider), provider)
    assert (found.name, found.role, found.next) == ("olga@example.com", Role.OPERATOR, "/gpus")
    provider.claims["groups"] = "models-viewers"
    assert come_back(login_at(provider), provider).role is Role.VIEWER


def test_request_carries_state_nonce_and_a_challenge_that_the_code_needs(provider: OwnProvider):
    login = login_at(provider, scopes=["email", "groups"])
    begun = login.begin("/")
    query = parse_qs(urlsplit(begun.location).query)
    assert query["scope"] == ["openid email groups"]
    assert query["redirect_uri"] == [f"{PAGE}/login/callback"]
    assert query["code_challenge_method"] == ["S256"]
    login.finish(provider.returned(begun.location), begun.cookie)
    sent = form(provider)
    assert _challenge(sent["code_verifier"]) == query["code_challenge"][0]
    assert sent["redirect_uri"] == query["redirect_uri"][0]
    again = parse_qs(urlsplit(login.begin("/").location).query)
    assert not {name for name in ("state", "nonce", "code_challenge") if again[name] == query[name]}


def test_client_secret_goes_where_the_provider_takes_it(provider: OwnProvider):
    come_back(login_at(provider), provider)
    sent = provider.asked("/token")[-1].headers["authorization"]
    assert base64.b64decode(sent.removeprefix("Basic ")).decode() == f"{CLIENT}:{SECRET}"
    assert "client_secret" not in form(provider)
    provider.metadata = {"token_endpoint_auth_methods_supported": ["client_secret_post"]}
    come_back(login_at(provider), provider)
    assert form(provider)["client_secret"] == SECRET
    assert "authorization" not in provider.asked("/token")[-1].headers


def test_new_client_secret_needs_no_restart(provider: OwnProvider):
    login = login_at(provider)
    come_back(login, provider)
    (provider.folder / "secret").write_text("a-new-one")
    come_back(login, provider)
    sent = provider.asked("/token")[-1].headers["authorization"]
    assert base64.b64decode(sent.removeprefix("Basic ")).decode() == f"{CLIENT}:a-new-one"


def test_client_secret_that_cannot_be_read_is_named_in_the_log_alone(provider: OwnProvider):
    login = login_at(provider)
    (provider.folder / "secret").unlink()
    found = refused(login, provider)
    assert found.status == 503
    assert "web.auth.oidc.client_secret_file" in found.detail
    assert str(provider.folder) not in str(found)


def test_what_the_id_token_lacks_comes_from_userinfo(provider: OwnProvider):
    provider.claims = {"groups": None, "email": None}
    provider.userinfo = {"sub": "u-1", "groups": ["models-viewers"], "email": "vera@example.com", "iss": "ignored"}
    found = come_back(login_at(provider), provider)
    assert (found.name, found.role) == ("vera@example.com", Role.VIEWER)
    assert provider.asked("/userinfo")[-1].headers["authorization"].startswith("Bearer ")


def test_id_token_is_believed_before_userinfo(provider: OwnProvider):
    provider.claims = {"groups": None}
    provider.userinfo = {"sub": "u-1", "email": "another@example.com", "groups": ["models-viewers"]}
    assert come_back(login_at(provider), provider).name == "olga@example.com"


def test_userinfo_is_not_asked_for_what_is_known(provider: OwnProvider):
    come_back(login_at(provider), provider)
    assert not provider.asked("/userinfo")


def test_userinfo_of_another_person_is_refused(provider: OwnProvider):
    provider.claims = {"groups": None}
    provider.userinfo = {"sub": "u-2", "groups": ["models-operators"]}
    assert refused(login_at(provider), provider).status == 502


def test_person_in_no_group_reads_theirs(provider: OwnProvider):
    provider.claims = {"groups": ["staff", "<b>\x1b[31m\u202eevil"]}
    found = refused(login_at(provider), provider)
    assert found.status == 403
    assert "olga@example.com" in str(found)
    assert "staff, <b>evil" in str(found)


def test_star_stands_for_whoever_can_log_in(provider: OwnProvider):
    provider.claims = {"groups": []}
    assert come_back(login_at(provider, viewers=["*"], operators=[]), provider).role is Role.VIEWER
    assert come_back(login_at(provider, viewers=[], operators=["*"]), provider).role is Role.OPERATOR
    provider.claims = {"groups": ["*"]}
    assert refused(login_at(provider), provider).status == 403


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://evil.example.com"},
        {"aud": "another-client"},
        {"nonce": "of-another-login"},
        {"nonce": None},
        {"exp": 1},
        {"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"},
    ],
)
def test_token_that_is_not_of_this_login_lets_nobody_in(provider: OwnProvider, claims: Mapping[str, Any]):
    provider.claims = dict(claims)
    found = refused(login_at(provider), provider)
    assert found.status == 502
    assert "ID token" in str(found)


def test_token_of_another_login_lets_nobody_in(provider: OwnProvider):
    login = login_at(provider)
    begun, other = login.begin("/"), login.begin("/")
    provider.returned(other.location)
    provider.answers["/token"] = Reply(body={"id_token": provider.token(), "access_token": "access-token-of-the-tests"})
    with pytest.raises(LoginFailed, match="nonce"):
        login.finish(provider.returned(begun.location), begun.cookie)


def test_login_is_over_once_it_came_back(provider: OwnProvider):
    login = login_at(provider)
    begun = login.begin("/")
    query = provider.returned(begun.location)
    login.finish(query, begun.cookie)
    asked = len(provider.asked("/token"))
    with pytest.raises(LoginFailed, match="used already"):
        login.finish(query, begun.cookie)
    assert len(provider.asked("/token")) == asked


def test_of_two_that_come_back_at_once_one_gets_in(provider: OwnProvider):
    login = login_at(provider)
    begun = login.begin("/")
    query = provider.returned(begun.location)
    results: list[str] = []

    def finish() -> None:
        try:
            results.append(login.finish(query, begun.cookie).name)
        except LoginFailed:
            results.append("")

    threads = [threading.Thread(target=finish) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [""] * 7 + ["olga@example.com"]


def test_login_that_another_browser_began_is_refused(provider: OwnProvider):
    login = login_at(provider)
    mine, theirs = login.begin("/"), login.begin("/")
    query = provider.returned(theirs.location)
    for shown in ("", mine.cookie):
        with pytest.raises(LoginFailed, match=f"this browser at {PAGE}") as found:
            login.finish(query, shown)
        assert found.value.status == 400
    assert not provider.asked("/token")


def test_cookie_that_somebody_made_up_is_refused(provider: OwnProvider):
    login, another_daemon = login_at(provider), login_at(provider)
    begun = another_daemon.begin("/")
    data = begun.cookie.partition(".")[0]
    query = provider.returned(begun.location)
    for cookie in ("", ".", "é.é", data, f"{data}.", begun.cookie, f"{begun.cookie}=", f"x{begun.cookie}"):
        with pytest.raises(LoginFailed, match="this browser"):
            login.finish(query, cookie)


def test_login_that_took_too_long_is_refused(provider: OwnProvider):
    clock = Clock()
    login = OidcLogin(provider.settings(), PAGE, clock=clock)
    begun = login.begin("/")
    clock.now += LASTS + 1
    with pytest.raises(LoginFailed, match="10 minutes"):
        login.finish(provider.returned(begun.location), begun.cookie)


def test_login_leads_to_no_other_site(provider: OwnProvider):
    login = login_at(provider)
    for wanted in ("//evil.example.com", "https://evil.example.com", "/" + "x" * 5000, None):
        begun = login.begin(wanted)
        assert len(begun.cookie) < 4000
        assert login.finish(provider.returned(begun.location), begun.cookie).next == "/"


def test_answer_of_another_provider_is_refused(provider: OwnProvider):
    login = login_at(provider)
    assert "another" in str(refused(login, provider, iss="https://evil.example.com"))
    assert "evil" not in str(refused(login, provider, iss="https://evil.example.com", error="x", code=None))
    assert come_back(login, provider, iss=provider.issuer)
    provider.metadata = {"authorization_response_iss_parameter_supported": True}
    assert "none" in str(refused(login_at(provider), provider))


def test_what_the_provider_says_is_cut_and_shown(provider: OwnProvider):
    said = "<script>alert(1)</script>\n\x1b[31m" + "x" * 5000
    found = refused(login_at(provider), provider, code=None, error="access_denied", error_description=said)
    assert found.status == 403
    assert "access_denied (<script>" in str(found)
    assert str(found).isprintable()
    assert len(str(found)) < 1000


def test_what_is_said_to_no_login_is_not_shown(provider: OwnProvider):
    with pytest.raises(LoginFailed) as found:
        login_at(provider).finish({"error": "x", "error_description": "Call 555 now", "state": "y"}, "")
    assert "555" not in str(found.value)


def test_code_that_the_provider_refuses_is_explained(provider: OwnProvider):
    provider.answers["/token"] = Reply(400, {"error": "invalid_grant", "error_description": "used"})
    assert "invalid_grant (used)" in str(refused(login_at(provider), provider))
    provider.answers["/token"] = Reply(401, {"error": "invalid_client"})
    assert "web.auth.oidc.client_secret_file" in str(refused(login_at(provider), provider))
    provider.answers["/token"] = Reply(400, b"<html>")
    assert "no reason given" in str(refused(login_at(provider), provider))


@pytest.mark.parametrize("code", [None, "", "x" * 10_000])
def test_answer_without_a_code_asks_for_no_token(provider: OwnProvider, code: str | None):
    refused(login_at(provider), provider, code=code)
    assert not provider.asked("/token")


@pytest.mark.parametrize(
    ("path", "reply"),
    [
        ("/token", Reply(500)),
        ("/token", Reply(429, {"error": "slow_down"})),
        ("/token", Reply(200, {"access_token": "x"})),
        ("/token", Reply(200, b"<html>")),
        ("/token", Reply(200, b"[" * 100_000)),
        ("/token", Reply(200, b"x" * (2 << 20))),
        ("/keys", Reply(503)),
        ("/keys", Reply(200, ["no object"])),
        ("/.well-known/openid-configuration", Reply(404)),
    ],
)
def test_provider_that_does_not_work_is_said_to_be_away(provider: OwnProvider, path: str, reply: Reply):
    provider.answers[path] = reply
    found = refused(login_at(provider), provider)
    assert found.status == 503
    assert "stays so" in str(found)
    assert "127.0.0.1" in found.detail


@pytest.mark.parametrize(("status", "path"), [(307, "/token"), (302, "/keys")])
def test_no_redirect_is_followed(provider: OwnProvider, status: int, path: str):
    provider.answers[path] = Reply(status, None, {"Location": f"{provider.issuer}/userinfo"})
    assert refused(login_at(provider), provider).status == 503
    assert not provider.asked("/userinfo")


def test_provider_that_comes_back_lets_people_in(provider: OwnProvider):
    clock = Clock()
    login = OidcLogin(provider.settings(), PAGE, IdentityProvider(provider.settings(), clock))
    provider.answers["/.well-known/openid-configuration"] = Reply(503)
    for _ in range(3):
        refused(login, provider)
    assert len(provider.server.asked) == 1
    provider.answers.clear()
    clock.now += 6
    assert come_back(login, provider)


def test_provider_that_is_not_there_is_said_to_be_away(tmp_path: Path):
    with OwnProvider(tmp_path).running() as gone:
        login = login_at(gone)
    with pytest.raises(LoginFailed) as found:
        login.begin("/")
    assert found.value.status == 503
    assert "Connection refused" in found.value.detail


@pytest.mark.parametrize(
    "said",
    [
        {"issuer": "https://evil.example.com"},
        {"issuer": None},
        {"token_endpoint": "http://login.example.com/token"},
        {"authorization_endpoint": "javascript:alert(1)"},
        {"authorization_endpoint": "https://login.example.com/\r\nSet-Cookie: a=b"},
        {"jwks_uri": None},
    ],
)
def test_provider_that_calls_itself_otherwise_or_is_not_safe_is_refused(provider: OwnProvider, said: dict[str, Any]):
    provider.metadata = said
    with pytest.raises(LoginFailed) as found:
        login_at(provider).begin("/")
    assert "web.auth.oidc.issuer" in found.value.detail
    assert found.value.detail.isprintable()


def test_new_key_is_asked_for_once_a_minute_at_most(provider: OwnProvider):
    clock = Clock()
    login = OidcLogin(provider.settings(), PAGE, IdentityProvider(provider.settings(), clock))
    assert come_back(login, provider)
    provider.signer = 1
    for _ in range(3):
        refused(login, provider)
    assert len(provider.asked("/keys")) == 1
    clock.now += 61
    for _ in range(3):
        refused(login, provider)
    assert len(provider.asked("/keys")) == 2
    provider.keys = [published(1)]
    clock.now += 61
    assert come_back(login, provider)
    assert come_back(login, provider)
    assert len(provider.asked("/keys")) == 3


def test_what_the_provider_says_of_itself_is_asked_for_once_an_hour(provider: OwnProvider):
    clock = Clock()
    login = OidcLogin(provider.settings(), PAGE, IdentityProvider(provider.settings(), clock))
    for _ in range(2):
        come_back(login, provider)
    assert len(provider.asked("/.well-known/openid-configuration")) == 1
    clock.now += 3601
    come_back(login, provider)
    assert len(provider.asked("/.well-known/openid-configuration")) == 2


def test_many_logins_that_came_back_are_forgotten_in_turn(provider: OwnProvider, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(oidc, "_MOST_USED", 3)
    login = login_at(provider)
    for _ in range(9):
        refused(login, provider, error="access_denied")
    assert len(login._used._until) == 3


def test_no_secret_is_in_what_is_logged(provider: OwnProvider):
    begun = login_at(provider).begin("/")
    assert begun.cookie not in repr(begun)
    for path in ("/token", "/keys"):
        provider.answers = {path: Reply(500)}
        assert SECRET not in refused(login_at(provider), provider).detail


SCALARS = st.none() | st.booleans() | st.floats() | st.text()
JSON = SCALARS | st.lists(SCALARS | st.lists(SCALARS)) | st.dictionaries(st.text(), SCALARS)


@given(JSON, JSON)
def test_name_and_groups_are_text_whatever_a_provider_sends(name: object, groups: object):
    claims = {"sub": "u-1", "email": name, "groups": groups}
    name = name_in(claims, "email")
    assert name
    assert name == one_line(name)
    assert all(isinstance(group, str) and group for group in groups_in(claims, "groups"))


@pytest.mark.parametrize("sign", ["\u200b", "\u00a0", "\u00ad", "\u2060", "\u202e", "\x1b[31m", "\n", "\ufeff"])
def test_name_that_looks_like_anothers_is_none(sign: str):
    for name in (f"ada{sign}", f"{sign}ada", f"a{sign}da"):
        assert name_in({"sub": "u-1", "email": name}, "email") == "u-1"
    assert name_in({"sub": "u-1", "name": " Ada Łukasiewicz "}, "name") == "Ada Łukasiewicz"


def test_name_is_cut(provider: OwnProvider):
    provider.claims = {"email": "x" * 1000}
    assert come_back(login_at(provider), provider).name == "x" * 256


@pytest.mark.parametrize("said", [False, "false", None, 0])
def test_email_that_is_not_verified_names_nobody(provider: OwnProvider, said: object):
    provider.claims = {"email": None}
    provider.userinfo = {"sub": "u-1", "email": "root@example.com", "email_verified": said}
    assert come_back(login_at(provider), provider).name == "u-1"
    people = login_at(provider, groups_claim="email", viewers=["root@example.com"])
    assert refused(people, provider).status == 403
    provider.userinfo["email_verified"] = True
    assert come_back(people, provider).name == "root@example.com"
    del provider.userinfo["email_verified"]
    assert refused(people, provider).status == 403


def page_at(provider: OwnProvider, folder: Path, **web: Any) -> Settings:
    return config(folder, auth={"oidc": provider.settings().model_dump(mode="json")}, **web)


def test_cookie_of_a_login_by_https_can_be_set_by_no_other_host(provider: OwnProvider, tmp_path: Path):
    with serving(page_at(provider, tmp_path, url=PAGE)) as side:
        answer = Asker(side).get("/login/oidc", {"Host": "models.example.com"})
    assert answer.status == 303
    assert answer.headers["set-cookie"].startswith("__Host-reconciler-login-")
    assert "; Secure" in answer.headers["set-cookie"]
    assert "; Path=/;" in answer.headers["set-cookie"]


@pytest.mark.parametrize("url", [PAGE, "http://127.0.0.1:1"])
def test_logins_that_nobody_ends_leave_room_for_the_session(provider: OwnProvider, tmp_path: Path, url: str):
    """Another site sends a browser to begin one after the other."""
    kept: dict[str, str] = {"session": "s"}
    with serving(page_at(provider, tmp_path, url=url)) as side:
        for _ in range(12):
            sent = "; ".join(f"{name}={value}" for name, value in kept.items())
            answer = Asker(side).get(f"/login/oidc?next=/{'a' * 1900}", {"Cookie": sent})
            for line in answer.headers.get_all("set-cookie", []):
                found = SimpleCookie(line)
                for name, one in found.items():
                    kept.pop(name, None)
                    kept |= {name: one.value} if one["max-age"] != "0" else {}
            assert (answer.status, line.count("; Path=/;")) == (303, 1)
            assert sum(len(name) + len(value) for name, value in kept.items()) < 8000
    assert "session" in kept
    assert len(kept) == 3


def test_strangers_fill_no_log_with_refusals_that_they_make_up(provider: OwnProvider, tmp_path: Path):
    with serving(page_at(provider, tmp_path, url="http://127.0.0.1:1")) as side, capture_logs() as lines:
        for number in range(MOST_LINES + 5):
            begun = Asker(side).get("/login/oidc")
            (state,) = parse_qs(urlsplit(begun.headers["location"]).query)["state"]
            cookie = begun.headers["set-cookie"].partition(";")[0]
            path = f"/login/callback?state={state}&error={number}"
            assert Asker(side).get(path, {"Cookie": cookie}).status == 403
    assert [one["event"] for one in lines] == ["login"] * MOST_LINES + ["login_lines_left_out"]


def test_page_says_that_the_provider_is_away(provider: OwnProvider, tmp_path: Path):
    provider.answers["/.well-known/openid-configuration"] = Reply(503)
    with serving(page_at(provider, tmp_path, url="http://127.0.0.1:1")) as side:
        answer = Asker(side).get("/login/oidc?next=/gpus")
    assert answer.status == 503
    assert "cannot be asked now" in answer.text
    assert 'href="/login/oidc?next=/gpus"' in answer.text


def test_slow_provider_leaves_threads_for_pages(provider: OwnProvider, tmp_path: Path):
    provider.may_answer.clear()
    with serving(page_at(provider, tmp_path, url="http://127.0.0.1:1")) as side, ThreadPoolExecutor(45) as pool:
        # More than the threads that answers have.
        waiting = [pool.submit(Asker(side).get, "/login/oidc") for _ in range(45)]
        provider_is_asked(provider)
        assert Asker(side).get("/readyz").status in (200, 503)
        assert not any(one.done() for one in waiting)
        provider.may_answer.set()
        assert {one.result().status for one in waiting} == {303}


def provider_is_asked(provider: OwnProvider) -> None:
    while not provider.server.asked:
        time.sleep(0.01)


def test_daemon_without_what_reads_tokens_says_what_to_install(
    provider: OwnProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("reconciler.web.login.routes.find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"^web\.auth\.oidc: needs joserfc; run: .* -m pip install joserfc"):
        WebSide(page_at(provider, tmp_path, url=PAGE), FakeLoop(), Metrics())


def test_daemon_without_a_provider_loads_nothing_for_one():
    program = "import sys, reconciler.cli, reconciler.web.server; print([m for m in sys.modules if 'joserfc' in m])"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "[]\n"
