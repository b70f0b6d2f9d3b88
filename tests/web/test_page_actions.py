"""What people do on the page: the question, who may, what is asked of the daemon, and what is told of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from structlog.testing import capture_logs

from reconciler.errors import Retryable
from reconciler.model import ByHand
from reconciler.page import action as page
from reconciler.page.action import Asked
from reconciler.web.pages import actions as page_actions
from reconciler.web.server import WebSide
from tests.support.report_world import report, status_of
from tests.web.asking import ADA, BOB, BY_PROXY, PROXY, TOKENS, Answer, Asker, config, serving
from tests.web.fake_loop import FakeLoop

HASH = "d34db33f"
HELD = {"hash": HASH, "reasons": ["half of all go"], "subjects": ["demo/tiny", "demo/<b>loud</b>"], "gpus": 3}
NAMES = ("sync", "suspend", "resume", "approve")


@pytest.fixture
def loop() -> FakeLoop:
    found = FakeLoop()
    found.document["targets"][0]["deletions"] = {"held": HELD, "approvals": []}
    return found


@pytest.fixture
def web(tmp_path: Path, loop: FakeLoop) -> Iterator[WebSide]:
    with serving(config(tmp_path, auth={"tokens": TOKENS, "proxy": BY_PROXY}), loop) as side:
        yield side


@pytest.fixture
def ada(web: WebSide) -> Asker:
    browser = Asker(web)
    browser.log_in(ADA)
    return browser


@pytest.fixture
def script(web: WebSide) -> Asker:
    return Asker(web, headers={"Authorization": f"Bearer {ADA}", "Accept": "application/json"})


def send(script: Asker, name: str, body: Any, kind: str = "application/json") -> Answer:
    return script.ask("POST", f"/actions/{name}", {"Content-Type": kind}, json.dumps(body))


def asked(loop: FakeLoop) -> list[tuple[str, Any]]:
    return [each for each in loop.asked if each[0] in (*NAMES, "drain", "undrain", "withdraw")]


# ---------------------------------------------------------------- the question


def test_question_says_what_will_be_done_and_does_nothing(ada: Asker, loop: FakeLoop):
    answer = ada.get("/actions/suspend?service=tiny&back=/gpus")
    assert answer.status == 200
    for text in ("Suspend demo/tiny", "paused on a", "reconciler suspend demo/tiny --reason WHY", 'href="/gpus"'):
        assert text in answer.text
    assert asked(loop) == []
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_question_that_another_site_led_to_has_no_button(ada: Asker, site: str):
    """It would be pressed by the second click of a double one, without being read."""
    path = f"/actions/approve?hash={HASH}&target=a"
    answer = ada.get(path, {"Sec-Fetch-Site": site})
    assert answer.status == 403
    assert "Another site led here" in answer.text
    assert f"reconciler approve {HASH}" in answer.text
    assert "/actions/approve" not in answer.text
    for own in ("same-origin", "none"):
        assert 'action="/actions/approve"' in ada.get(path, {"Sec-Fetch-Site": own}).text


def test_question_of_an_approval_lists_what_goes(ada: Asker):
    text = ada.get(f"/actions/approve?hash={HASH}").text
    assert "demo/tiny on a" in text
    assert "demo/&lt;b&gt;loud&lt;/b&gt; on a" in text
    assert "2 in all, with 3 GPUs" in text
    assert "half of all go" in text


def test_question_about_deletions_that_are_gone_has_no_button(ada: Asker):
    text = ada.get("/actions/approve?hash=0123").text
    assert "No deletions with this hash are held any more" in text
    assert "<form" not in text.partition("<main")[2]


def test_question_about_an_unknown_service_has_no_button(ada: Asker):
    answer = ada.get("/actions/suspend?service=demo/%3Cscript%3E")
    assert answer.status == 404
    assert "<form" not in answer.text.partition("<main")[2]
    assert "<script>" not in answer.text.partition("<main")[2]


def test_question_is_json_for_scripts(script: Asker):
    document = json.loads(script.get("/actions/resume?service=tiny").text)
    assert (document["schema"], document["command"]) == (page.SCHEMA, "reconciler resume demo/tiny")


def test_command_is_quoted_for_a_shell():
    asked = Asked(service="demo/tiny", reason="a disk; rm -rf / 'x'", until="2h")
    document = page.suspend_document(status_of(report()), asked)
    assert document["command"] == """reconciler suspend demo/tiny --reason 'a disk; rm -rf / '"'"'x'"'"'' --until 2h"""


# ---------------------------------------------------------------- doing it


def test_suspension_has_a_reason_an_end_and_a_name(ada: Asker, loop: FakeLoop):
    form = {"service": "demo/tiny", "reason": "a disk is replaced", "until": "2h", "back": "/gpus?notice=old&a=b"}
    answer = ada.post("/actions/suspend", form)
    ((name, (service, by)),) = asked(loop)
    assert (name, service) == ("suspend", "demo/tiny")
    assert isinstance(by, ByHand)
    assert (by.by, by.reason) == ("ada (web)", "a disk is replaced")
    assert 7190 < (by.until or 0) - (by.at or 0) < 7210
    assert answer.status == 303
    where = urlsplit(answer.headers["location"])
    assert (where.netloc, where.path, parse_qs(where.query)["a"]) == ("", "/gpus", ["b"])


def test_notice_is_for_who_acted_alone(ada: Asker, web: WebSide):
    where = ada.post("/actions/sync", {"back": "/"}).headers["location"]
    bob = Asker(web)
    bob.log_in(BOB)
    assert "Git was asked" in ada.get(where).text
    assert "Git was asked" not in bob.get(where).text
    assert "Git was asked" not in ada.get("/?notice=Git%20was%20asked").text


def test_everything_is_suspended_where_no_service_is_named(ada: Asker, loop: FakeLoop):
    ada.post("/actions/suspend", {"service": "", "reason": "x", "until": ""})
    ((_, (service, by)),) = asked(loop)
    assert (service, by.until) == (None, None)


@pytest.mark.parametrize("reason", ["", "   "])
def test_suspension_without_a_reason_is_asked_again(ada: Asker, loop: FakeLoop, reason: str):
    answer = ada.post("/actions/suspend", {"service": "tiny", "reason": reason, "until": "90m"})
    assert answer.status == 400
    assert "say why" in answer.text
    assert 'value="90m"' in answer.text
    assert asked(loop) == []


@pytest.mark.parametrize("until", ["soon", "0s", "-1h", "99999999d", "2h; x"])
def test_end_that_is_none_is_asked_again(ada: Asker, loop: FakeLoop, until: str):
    answer = ada.post("/actions/suspend", {"reason": "why", "until": until})
    assert (answer.status, "until: " in answer.text) == (400, True)
    assert asked(loop) == []


def test_approval_names_the_deletions_that_were_shown(ada: Asker, loop: FakeLoop):
    ada.post("/actions/approve", {"hash": HASH, "target": "a", "reason": "as planned"})
    ((name, (hash_, target, by)),) = asked(loop)
    assert (name, hash_, target, by.by, by.reason) == ("approve", HASH, "a", "ada (web)", "as planned")


def test_what_the_daemon_refuses_is_said(ada: Asker):
    answer = ada.post("/actions/resume", {"service": "tiny"})
    assert answer.status == 409
    assert "the whole target is suspended" in answer.text


@pytest.mark.parametrize("back", ["//evil.example", "https://evil.example", "/\\evil.example"])
def test_action_leads_to_no_other_site(ada: Asker, back: str):
    assert ada.post("/actions/sync", {"back": back}).headers["location"].startswith("/?notice=")


def test_scripts_get_what_the_control_socket_answers(script: Asker, loop: FakeLoop):
    assert json.loads(send(script, "sync", {}).text) == {"pass": 2}
    assert json.loads(send(script, "suspend", {"service": "tiny", "reason": "x"}).text) == {"suspended": ["demo/tiny"]}
    assert json.loads(send(script, "approve", {"hash": HASH.upper()}).text) == {"targets": ["a"]}
    assert json.loads(send(script, "suspend", {"reason": "x", "until": 1}).text)["error"].startswith("until")
    assert asked(loop)[0] == ("sync", "ada (web)")


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("text/plain", "{}", 415),
        ("multipart/form-data; boundary=x", "--x--", 415),
        ("application/json", "[]", 400),
        ("application/json", "{", 400),
        ("application/json", '{"service": 1, "reason": "x"}', 400),
        ("application/json", '{"service": "nobody", "reason": "x"}', 404),
        ("application/json", '{"reason": "' + "x" * 501 + '"}', 400),
        ("application/json", '{"reason": "' + "x" * 70_000 + '"}', 400),
        ("application/x-www-form-urlencoded", "reason=a&reason=b", 400),
        ("application/x-www-form-urlencoded", "reason=%ff", 400),
    ],
)
def test_odd_body_does_nothing(script: Asker, loop: FakeLoop, kind: str, body: str, status: int):
    answer = script.ask("POST", "/actions/suspend", {"Content-Type": kind}, body)
    assert (answer.status, asked(loop)) == (status, [])
    assert json.loads(answer.text)["error"]


def test_page_waits_for_slow_git_no_longer_than_it_may(script: Asker, loop: FakeLoop, monkeypatch: pytest.MonkeyPatch):
    asked_git, go_on = threading.Event(), threading.Event()

    def slow(_: FakeLoop, by: str = "") -> int:
        asked_git.set()
        go_on.wait(30)
        raise Retryable("git is away")

    monkeypatch.setattr(FakeLoop, "request_sync", slow)
    monkeypatch.setattr(page_actions, "_SYNC_SECONDS", 0.05)
    answers = [send(script, "sync", {}) for _ in range(5)]
    assert [answer.status for answer in answers] == [200] * 4 + [503]
    assert json.loads(answers[0].text) == {"pass": None}
    assert asked_git.is_set()
    assert json.loads(send(script, "suspend", {"reason": "x"}).text) == {"suspended": ["*"]}
    go_on.set()


# ---------------------------------------------------------------- who may


@pytest.mark.parametrize("name", NAMES)
def test_viewer_is_told_how_else_and_does_nothing(web: WebSide, loop: FakeLoop, name: str):
    bob = Asker(web)
    bob.log_in(BOB)
    question = bob.get(f"/actions/{name}?hash={HASH}")
    assert question.status == 403
    assert "You are bob and may look, not act" in question.text
    assert f"reconciler {name}" in question.text
    assert bob.post(f"/actions/{name}", {"reason": "x", "hash": HASH}).status == 403
    assert send(Asker(web, headers={"Authorization": f"Bearer {BOB}"}), name, {"hash": HASH}).status == 403
    assert asked(loop) == []


@pytest.mark.parametrize("name", NAMES)
def test_without_login_nobody_changes_anything(tmp_path: Path, loop: FakeLoop, name: str):
    with serving(config(tmp_path), loop) as side:
        anyone = Asker(side)
        assert "no login is configured" in anyone.get(f"/actions/{name}").text
        assert anyone.post(f"/actions/{name}", {"reason": "x", "hash": HASH}).status == 403
        assert anyone.ask("POST", f"/actions/{name}", {"X-Reconciler": "1"}, "{}").status == 403
        assert asked(loop) == []
        overview = anyone.get("/").text
        assert "/actions/" not in overview.partition("<main")[2].replace(
            f"/actions/approve?target=a&amp;hash={HASH}", ""
        )
        assert "reconciler suspend --reason WHY --until 2h" in overview


@pytest.mark.parametrize("name", NAMES)
def test_stranger_changes_nothing(web: WebSide, loop: FakeLoop, name: str):
    assert Asker(web).post(f"/actions/{name}", {"reason": "x", "hash": HASH}).status == 401
    spoofed = {"X-Forwarded-User": "ada", "X-Forwarded-Groups": "admins", "Sec-Fetch-Site": "same-origin"}
    assert Asker(web).post(f"/actions/{name}", {"reason": "x", "hash": HASH}, spoofed).status == 401
    assert asked(loop) == []


@pytest.mark.parametrize("name", NAMES)
def test_another_site_changes_nothing(ada: Asker, loop: FakeLoop, name: str):
    for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"Origin": "null"}, {}):
        assert ada.post(f"/actions/{name}", {"reason": "x", "hash": HASH}, headers).status == 403
    assert asked(loop) == []


@pytest.mark.parametrize("name", ["drain", "undrain", "withdraw", "restart", "../drain", ""])
def test_there_are_no_other_actions(ada: Asker, loop: FakeLoop, name: str):
    assert ada.post(f"/actions/{name}", {"reason": "x", "hash": HASH}).status == 404
    assert asked(loop) == []


def test_operator_finds_the_buttons(ada: Asker):
    text = ada.get("/").text
    assert 'href="/actions/sync?back=%2F"' in text or 'href="/actions/sync?back=/"' in text
    assert "/actions/suspend?" in text


def test_every_action_has_a_line_in_the_log(ada: Asker, web: WebSide):
    bob = Asker(web, source=PROXY, headers={"X-Forwarded-User": "bob\u00fc", "X-Forwarded-Groups": "team"})
    with capture_logs() as lines:
        ada.post("/actions/suspend", {"service": "tiny", "reason": "a\nb" + "c" * 300})
        ada.post("/actions/resume", {"service": "tiny"})
        bob.post("/actions/sync", {})
        ada.post("/actions/sync", {}, {"Sec-Fetch-Site": "cross-site"})
    audited = [line for line in lines if line["event"] == "page_action"]
    assert [(line["action"], line["result"][:7], line["client"]) for line in audited] == [
        ("suspend", "done", "127.0.0.1"),
        ("resume", "refused", "127.0.0.1"),
        ("sync", "refused", PROXY),
    ]
    assert [line["who"] for line in audited][:2] == ["ada", "ada"]
    assert audited[0]["asked"]["service"] == "tiny"
    assert "\n" not in audited[0]["asked"]["reason"]
    (refused,) = [line for line in lines if line["event"] == "cross_site_refused"]
    assert (refused["who"], refused["path"]) == ("ada", "/actions/sync")
