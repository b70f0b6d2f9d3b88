"""From a page of the daemon to a real identity provider, and back with a session."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from http.cookies import SimpleCookie
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.web.asking import COOKIE, Answer, Asker
from tests.web.oidc_provider.process import Person
from tests.web.oidc_provider.world import World, running


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running(tmp_path_factory.mktemp("world")) as found:
        yield found


def sent_away(browser: Asker) -> tuple[Answer, dict[str, str]]:
    """The answer that sends a browser to the provider, and the header with its cookies from now on."""
    answer = browser.get("/login/oidc?next=/gpus")
    cookie = answer.headers["set-cookie"].partition(";")[0]
    return answer, {"Cookie": f"{COOKIE}={browser.cookie}; {cookie}" if browser.cookie else cookie}


def path_of(address: str) -> str:
    where = urlsplit(address)
    return f"{where.path}?{where.query}"


def log_in(world: World, browser: Asker, person: Person, user: str) -> Answer:
    answer, cookie = sent_away(browser)
    back = person.log_in(answer.headers["location"], user)
    assert back.startswith(f"{world.url}/login/callback?")
    answer = browser.get(path_of(back), cookie)
    browser.cookie = session_in(answer) or browser.cookie
    return answer


def session_in(answer: Answer) -> str:
    found = (SimpleCookie(line).get(COOKIE) for line in answer.headers.get_all("set-cookie") or ())
    return next((morsel.value for morsel in found if morsel), "")


def test_stranger_is_led_to_the_provider_and_back_to_the_page(world: World):
    browser, person = world.person()
    assert browser.get("/gpus").headers["location"] == "/login?next=/gpus"
    assert 'href="/login/oidc?next=/gpus"' in browser.get("/login?next=/gpus").text
    answer = log_in(world, browser, person, "olga")
    assert (answer.status, answer.headers["location"]) == (303, "/gpus")
    page = browser.get("/gpus")
    assert page.status == 200
    assert "olga@example.com" in page.text


def test_cookie_of_a_login_is_short_and_for_nobody_else(world: World):
    browser, person = world.person()
    answer, cookie = sent_away(browser)
    known = answer.headers["set-cookie"].lower()
    assert {"httponly", "samesite=lax", "max-age=600", "path=/"} <= {each.strip() for each in known.split(";")}
    assert answer.headers["cache-control"] == "no-store"
    back = browser.get(path_of(person.log_in(answer.headers["location"], "vera")), cookie)
    name = cookie["Cookie"].partition("=")[0]
    assert any(line.startswith(f'{name}="";') for line in back.headers.get_all("set-cookie") or ())


def test_login_ends_the_session_that_the_browser_had(world: World):
    browser, person = world.person()
    log_in(world, browser, person, "vera")
    before = replace(browser)
    log_in(world, browser, person, "")
    assert browser.cookie != before.cookie
    assert before.get("/").status == 303
    assert browser.get("/").status == 200


def test_login_does_once(world: World):
    browser, person = world.person()
    answer, cookie = sent_away(browser)
    back = path_of(person.log_in(answer.headers["location"], "olga"))
    assert session_in(browser.get(back, cookie))
    again = browser.get(back, cookie)
    assert again.status == 400
    assert "has been used already" in again.text
    assert not session_in(again)


def test_address_of_another_login_gives_no_session(world: World):
    victim, _ = world.person()
    attacker, person = world.person()
    answer, _ = sent_away(attacker)
    back = path_of(person.log_in(answer.headers["location"], "olga"))
    for cookie in ({}, sent_away(victim)[1]):
        found = victim.get(back, cookie)
        assert (found.status, session_in(found)) == (400, "")


def test_person_in_no_group_reads_why_and_may_try_as_another(world: World):
    browser, person = world.person()
    answer = log_in(world, browser, person, "nina")
    assert answer.status == 403
    assert "nina@example.com is in no group" in answer.text
    assert "Your groups: staff" in answer.text
    assert "/login/oidc" in answer.text
    assert browser.get("/").status == 303


def test_words_of_a_provider_are_escaped(world: World):
    browser, _ = world.person()
    answer, cookie = sent_away(browser)
    state = answer.headers["location"].partition("&state=")[2].partition("&")[0]
    query = f"state={state}&iss={world.provider.issuer}&error=x&error_description=%3Cscript%3Ealert(1)%3C/script%3E"
    found = browser.get(f"/login/callback?{query}", cookie)
    assert found.status == 403
    assert "&lt;script&gt;alert(1)" in found.text
    assert "<script>alert" not in found.text


def test_sessions_go_on_while_the_provider_is_away(tmp_path: Path):
    with running(tmp_path) as world:
        browser, person = world.person()
        log_in(world, browser, person, "olga")
        answer, cookie = sent_away(browser)
        back = path_of(person.log_in(answer.headers["location"], ""))
        world.away.close()
        found = browser.get(back, cookie)
        assert found.status == 503
        assert "Who is logged in stays so" in found.text
        assert browser.get("/").status == 200
