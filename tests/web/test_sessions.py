"""Sessions of browsers, and the form that begins them."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from reconciler.web.bounded_log import MOST_LINES
from reconciler.web.cross_site import local_path
from reconciler.web.login import sessions as module
from reconciler.web.login.credentials import grant_sources
from reconciler.web.login.sessions import Grant, Sessions
from reconciler.web.server import WebSide
from reconciler.web.visitors import Role
from tests.web.asking import ADA, BOB, SAME_ORIGIN, TOKENS, Asker, config, serving, token

GRANT = Grant("ada", Role.OPERATOR, "here")


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebSide]:
    with serving(config(tmp_path_factory.mktemp("web"), auth={"tokens": TOKENS})) as side:
        yield side


@pytest.fixture
def browser(web: WebSide) -> Asker:
    return Asker(web)


def make(folder: Path, seconds: float = 100.0, sources: tuple[str, ...] = ("here",)) -> Sessions:
    return Sessions(folder, seconds, sources)


# ---------------------------------------------------------------- what is kept


def test_session_outlives_the_daemon(tmp_path: Path):
    with serving(config(tmp_path, auth={"tokens": TOKENS})) as side:
        browser = Asker(side)
        browser.log_in(BOB)
    with serving(config(tmp_path, auth={"tokens": TOKENS})) as side:
        assert Asker(side, cookie=browser.cookie).get("/").status == 200


@pytest.mark.parametrize("change", [token("ada", "another token", "operator"), token("ada", ADA, "viewer"), None])
def test_session_ends_with_the_token_that_began_it(tmp_path: Path, change: dict[str, str] | None):
    with serving(config(tmp_path, auth={"tokens": TOKENS})) as side:
        ada, bob = Asker(side), Asker(side)
        ada.log_in(ADA), bob.log_in(BOB)
    left = [TOKENS[1], *([change] if change else [])]
    with serving(config(tmp_path, auth={"tokens": left})) as side:
        assert Asker(side, cookie=ada.cookie).get("/", {"Accept": "*/*"}).status == 401
        assert Asker(side, cookie=bob.cookie).get("/", {"Accept": "*/*"}).status == 200


def test_file_does_not_hold_the_id(tmp_path: Path):
    sessions = make(tmp_path)
    id_ = sessions.begin(GRANT)
    assert sessions.find(id_) is not None
    sessions.close()
    assert id_.encode() not in b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert (tmp_path / "sessions.db").stat().st_mode & 0o077 == 0


def test_session_is_over_in_time(tmp_path: Path):
    id_ = make(tmp_path).begin(GRANT)
    assert make(tmp_path, seconds=60).find(id_) is not None
    assert make(tmp_path, seconds=0).find(id_) is None


@pytest.mark.parametrize(("ahead", "holds"), [(30.0, True), (3600.0, False)])
def test_session_from_the_future_does_not_hold(tmp_path: Path, ahead: float, holds: bool):
    sessions = make(tmp_path)
    id_ = sessions.begin(GRANT)
    with sqlite3.connect(tmp_path / "sessions.db") as db:
        db.execute("UPDATE sessions SET begun = ?", (time.time() + ahead,))
    assert (sessions.find(id_) is not None) == holds


def test_sessions_from_the_future_keep_no_other_out(tmp_path: Path):
    """Somebody logged in often while the clock was wrong."""
    sessions = make(tmp_path)
    for _ in range(module.MOST_OF_ONE):
        sessions.begin(GRANT)
    with sqlite3.connect(tmp_path / "sessions.db") as db:
        db.execute("UPDATE sessions SET begun = begun + 86400")
    ids = [sessions.begin(GRANT) for _ in range(2)]
    assert all(sessions.find(id_) for id_ in ids)


def test_who_begins_many_sessions_ends_their_own(tmp_path: Path):
    sessions = make(tmp_path)
    other = sessions.begin(Grant("bob", Role.VIEWER, "here"))
    ids = [sessions.begin(GRANT) for _ in range(module.MOST_OF_ONE + 1)]
    assert [sessions.find(id_) is not None for id_ in ids] == [False] + [True] * module.MOST_OF_ONE
    assert sessions.find(other) is not None


def test_oldest_sessions_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MOST", 5)
    sessions = make(tmp_path)
    ids = [sessions.begin(Grant(f"person {n}", Role.VIEWER, "here")) for n in range(7)]
    assert [sessions.find(id_) is not None for id_ in ids] == [False] * 2 + [True] * 5


def test_damaged_file_costs_the_logins_alone(tmp_path: Path):
    (tmp_path / "sessions.db").write_bytes(b"no database" * 1000)
    sessions = make(tmp_path)
    assert sessions.find("a" * 43) is None
    assert sessions.find(sessions.begin(GRANT)) is not None


def test_file_that_cannot_be_opened_leaves_tokens(tmp_path: Path):
    with serving(config(tmp_path, auth={"tokens": TOKENS})) as side:
        (tmp_path / "sessions.db").mkdir()
        assert Asker(side).log_in(ADA).status == 503
        with capture_logs() as lines:
            for _ in range(MOST_LINES + 5):
                assert Asker(side, cookie="a" * 43).get("/").status == 503
        # Whose cookies anybody can make up.
        assert [one["event"] for one in lines] == ["sessions_failed"] * MOST_LINES + ["sessions_failed_lines_left_out"]
        assert Asker(side).get("/", {"Authorization": f"Bearer {ADA}"}).status == 200


# ---------------------------------------------------------------- logging in and out


def test_login_leads_to_where_somebody_wanted_to_go(browser: Asker):
    assert 'name="next" value="/gpus?a=b"' in browser.get("/login?next=/gpus%3Fa%3Db").text
    answer = browser.log_in(ADA, "/gpus?a=b")
    assert (answer.status, answer.headers["location"]) == (303, "/gpus?a=b")
    assert "ada" in browser.get("/").text


def test_wrong_token_is_answered_alike(browser: Asker):
    answers = [browser.log_in(text) for text in ("", "x", ADA[:-1], BOB + " x", "ada")]
    assert {(answer.status, answer.cookie) for answer in answers} == {(401, "")}
    assert len({answer.text.partition("<main")[2] for answer in answers}) == 1


def test_cookie_is_out_of_reach_for_scripts_and_other_sites(browser: Asker):
    line = browser.log_in(ADA).headers["set-cookie"].lower()
    assert all(part in line for part in ("httponly", "samesite=lax", "path=/", "max-age=43200"))
    assert "domain" not in line


def test_cookie_behind_https_belongs_to_this_host(tmp_path: Path):
    with serving(config(tmp_path, url="https://models.example.com", auth={"tokens": TOKENS})) as side:
        browser = Asker(side)
        line = browser.log_in(ADA).headers["set-cookie"]
        assert line.startswith("__Host-reconciler=")
        assert "secure" in line.lower()
        # The other name, which a sibling domain could set, is not read.
        assert browser.get("/", {"Accept": "*/*"}).status == 401
        assert browser.get("/", {"Cookie": f"__Host-reconciler={browser.cookie}"}).status == 200


def test_login_begins_a_session_with_a_new_id(browser: Asker):
    browser.log_in(ADA)
    before = browser.cookie
    browser.log_in(BOB)
    assert browser.cookie != before
    assert Asker(browser.web, cookie=before).get("/", {"Accept": "*/*"}).status == 401


def test_id_that_somebody_planted_is_never_taken(browser: Asker):
    browser.cookie = "A" * 43
    answer = browser.log_in(ADA)
    assert answer.cookie != "A" * 43
    assert Asker(browser.web, cookie="A" * 43).get("/", {"Accept": "*/*"}).status == 401


@pytest.mark.parametrize("cookie", ["", "x", "A" * 43, "A" * 44, "A" * 42 + "\u00e9", "../../etc/passwd", "'; --", '"'])
def test_forged_session_is_nobody(browser: Asker, cookie: str):
    browser.log_in(ADA)
    assert (
        Asker(browser.web)
        .get("/", {"Cookie": f"reconciler={cookie}".encode().decode("latin-1"), "Accept": "*/*"})
        .status
        == 401
    )


def test_two_sessions_at_once_are_none(browser: Asker):
    browser.log_in(ADA)
    ours = f"reconciler={browser.cookie}"
    for planted in (f"reconciler={letter * 43}" for letter in "ABCDEFGH"):
        for both in (f"{planted}; {ours}", f"{ours}; {planted}"):
            assert browser.get("/", {"Cookie": both, "Accept": "*/*"}).status == 401
    assert browser.get("/", {"Cookie": f"a=b; reconciler={browser.cookie}; c=d"}).status == 200


def test_logout_ends_the_session(browser: Asker):
    browser.log_in(ADA)
    answer = browser.post("/logout", {})
    assert (answer.status, answer.headers["location"], answer.cookie) == (303, "/login", '""')
    assert browser.get("/", {"Accept": "*/*"}).status == 401


def test_logout_that_the_disk_does_not_take_is_told(browser: Asker):
    browser.log_in(ADA)
    connection = browser.web._sessions._database().connection
    connection.execute("PRAGMA query_only = 1")
    answer = browser.post("/logout", {})
    assert (answer.status, answer.cookie) == (503, "")
    assert "you are still logged in" in answer.text
    connection.execute("PRAGMA query_only = 0")
    assert browser.post("/logout", {}).status == 303
    assert browser.get("/", {"Accept": "*/*"}).status == 401


def test_logout_by_a_link_is_none(browser: Asker):
    browser.log_in(ADA)
    assert browser.get("/logout").status == 405
    assert browser.get("/").status == 200


def test_login_of_another_site_is_refused(browser: Asker):
    answer = browser.post("/login", {"token": ADA}, {"Sec-Fetch-Site": "cross-site"})
    assert (answer.status, answer.cookie) == (403, "")


@pytest.mark.parametrize("body", ["token=a&token=b", "a=b&" * 50, "x" * 20_000, "%ff%fe", ""])
def test_odd_form_is_no_login(browser: Asker, body: str):
    kind = {"Content-Type": "application/x-www-form-urlencoded", **SAME_ORIGIN}
    assert browser.ask("POST", "/login", kind, body).status == 401
    assert browser.ask("POST", "/login", {"Content-Type": "text/plain", **SAME_ORIGIN}, f"token={ADA}").status == 401


def test_session_of_a_daemon_without_login_is_none(tmp_path: Path):
    with serving(config(tmp_path)) as side:
        assert Asker(side).get("/login").status == 404
        assert Asker(side, cookie="A" * 43).get("/").status == 200


# ---------------------------------------------------------------- where a login leads to


@pytest.mark.parametrize(
    "text",
    [
        "//evil.example", "/\\evil.example", "\\\\evil.example", "https://evil.example", "///evil.example", "evil",
        "/\t/evil.example", "/\n/evil.example", "javascript:alert(1)", "/a//evil.example", " //evil",
        "/%0d%0aa: b\r\nb", "/" + 1900 * "a" + '"', "/a" * 900 + "\n",
        "/\u2215evil", "/a\\b", "/a?b\r\nSet-Cookie: a=b", "/" + "a" * 3000, "", None, "/a#@evil.example", "/\x00",
    ],
)  # fmt: skip
def test_login_leads_to_no_other_site(text: str | None):
    assert local_path(text) == "/"


def test_no_path_takes_long_to_judge():
    for text in ("/" + "a" * 1900 + "\\", "/" + "a/" * 950 + "\\", "/" + "%a" * 900 + "?" * 90 + "#"):
        assert local_path(text) == "/"


@given(st.text(alphabet="/\\ab.:@?#%=&\t\n\r ;", max_size=30))
def test_local_path_stays_here(text: str):
    from urllib.parse import urljoin, urlsplit

    # What a browser takes out of an address before it understands it.
    found = local_path(text)
    assert not set(found) & set("\\\t\n\r #")
    assert urlsplit(urljoin("http://here/x/y", found)).netloc == "here"


@pytest.mark.parametrize("path", ["/", "/gpus", "/services/a/b/c?tab=log&x=1", "/changes/0123?a=/b//c", "/a/"])
def test_paths_of_ours_stay(path: str):
    assert local_path(path) == path


def test_redirect_of_the_form_stays_here(browser: Asker):
    for evil in ("//evil.example", "https://evil.example/", "/\\evil.example"):
        assert browser.log_in(ADA, evil).headers["location"] == "/"


# ---------------------------------------------------------------- what the config grants


def test_other_groups_of_a_provider_end_its_sessions_alone(tmp_path: Path):
    oidc = {"issuer": "https://id.example.com", "client_id": "x", "client_secret_file": "/s", "viewers": ["a"]}

    def sources(**changed: object) -> set[str]:
        auth = {"tokens": TOKENS, "oidc": oidc | changed}
        return set(grant_sources(config(tmp_path, url="https://page", auth=auth).web.auth))

    assert sources() == sources()
    assert len(sources() - sources(viewers=["b"])) == 1
    assert len(sources() & sources(operators=["a"])) == len(TOKENS)
