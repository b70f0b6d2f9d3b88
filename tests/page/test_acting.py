"""People act on the page: with the keyboard alone, with a script or without, and from no other page."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.page.conftest import MakeVisitor
from tests.page.other_site import other_site

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

    from tests.page.browser import Visitor
    from tests.page.installation import Installation

pytestmark = pytest.mark.web

SERVICE = "/services/demo/default/tiny"
# What another site may have a browser send without asking first.
FORM = """<title>Win</title><link rel=icon href="data:,"><script src="/go.js" defer></script>
<form method=post action="{address}/actions/suspend"><input name=service value=default/tiny>
<input name=reason value=won></form>"""
FETCH = """
    const body = new URLSearchParams({{service: 'default/tiny', reason: 'won'}})
    const sent = fetch('{address}/actions/suspend', {{method: 'POST', mode: 'no-cors', credentials: 'include', body}})
    sent.catch(() => {{}}).finally(() => document.title = 'sent')"""


def press_on(page: Page, name: str) -> None:
    """Go to the link or button of that name by the Tab key, and press Enter."""
    for _ in range(200):
        page.keyboard.press("Tab")
        if page.locator(":focus").get_by_text(name, exact=True).or_(page.locator(f":focus:text-is('{name}')")).count():
            with page.expect_navigation():
                page.keyboard.press("Enter")
            return
    raise AssertionError(f"no {name} on\n{page.locator('body').inner_text()}")


def log_in(visitor: Visitor, path: str) -> Page:
    """Ask for a page as nobody, and come to it by the form for a token; by keyboard alone."""
    from tests.page.installation import OPERATOR

    page = visitor.open(path)
    assert "/login?next=" in page.url
    page.get_by_label("Token").focus()
    page.keyboard.type(OPERATOR)
    page.keyboard.press("Enter")
    page.wait_for_url(visitor.address + path)
    return page


@pytest.mark.parametrize("script", [True, False], ids=["script", "no-script"])
def test_operator_suspends_and_resumes_by_keyboard_alone(
    script: bool, site: Installation, make_visitor: MakeVisitor
) -> None:
    visitor = make_visitor(site.address, java_script_enabled=script)
    page = log_in(visitor, SERVICE)
    press_on(page, "Sync now")
    press_on(page, "Sync")
    page.wait_for_url(f"{site.address}{SERVICE}*")
    page.get_by_role("status").filter(has_text="Git was asked").wait_for()
    press_on(page, "Suspend")
    page.keyboard.press("Tab")
    page.get_by_label("Reason").focus()
    page.keyboard.type("look <b>closer</b>")
    page.keyboard.press("Tab")
    page.keyboard.type("2h")
    page.keyboard.press("Enter")
    page.wait_for_url(f"{site.address}{SERVICE}*")
    page.get_by_role("status").filter(has_text="Suspended: default/tiny.").wait_for()
    site.wait("it to be suspended", lambda: (site.service() or {}).get("suspension"))
    page.reload()
    said = page.locator("#state").inner_text()
    assert "by ada (web)" in said
    assert "look <b>closer</b>" in said
    press_on(page, "Resume")
    press_on(page, "Resume")
    page.wait_for_url(f"{site.address}{SERVICE}*")
    site.wait("it to be resumed", lambda: not (site.service() or {})["suspended"])
    page.reload()
    assert "ada (web)" in page.locator("#history").inner_text()
    press_on(page, "Log out")
    page.wait_for_url(f"{site.address}/login")
    assert visitor.open(SERVICE).url.endswith(f"/login?next={SERVICE}")
    site.settle()


def test_logout_whose_answer_is_slow_leads_to_the_login(site: Installation, make_visitor: MakeVisitor) -> None:
    def answer_late(route: Route) -> None:
        response = route.fetch(max_redirects=0)
        # Meanwhile the page learns that its session is over.
        time.sleep(2)
        route.fulfill(response=response)

    page = log_in(make_visitor(site.address), SERVICE)
    page.route("**/logout", answer_late)
    press_on(page, "Log out")
    assert page.url == f"{site.address}/login"


def test_session_is_a_cookie_that_no_script_or_other_site_gets(site: Installation, make_visitor: MakeVisitor) -> None:
    visitor = make_visitor(site.address)
    page = log_in(visitor, "/gpus")
    (cookie,) = visitor.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Lax")
    assert page.evaluate("() => document.cookie") == ""
    visitor.context.clear_cookies()
    visitor.context.add_cookies([{**cookie, "value": cookie["value"][:-4] + "AAAA"}])
    assert "/login" in visitor.open("/gpus").url


@pytest.mark.parametrize("way", ["form", "fetch"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"], ids=["same-site", "other-site"])
def test_other_site_makes_an_operator_do_nothing(
    host: str, way: str, site: Installation, make_visitor: MakeVisitor
) -> None:
    script = "document.forms[0].submit()" if way == "form" else FETCH.format(address=site.address)
    pages = {"/": ("text/html", FORM.format(address=site.address)), "/go.js": ("text/javascript", script)}
    visitor = make_visitor(site.address)
    visitor.expected = [
        "asked another host",
        "status of 40[13]",
        "answered 40[13]",
        "net::ERR_BLOCKED",
        "net::ERR_FAILED",
    ]
    log_in(visitor, "/gpus")
    before = len(site.history())
    with other_site(pages) as address:
        page = visitor.context.new_page()
        page.goto(address.replace("127.0.0.1", host))
        if way == "fetch":
            page.wait_for_function("() => document.title === 'sent'")
        else:
            page.wait_for_url(f"{site.address}/actions/suspend")
            # Of another site the browser does not even send who is logged in.
            page.get_by_text("Not from this page" if host == "127.0.0.1" else "Log in").first.wait_for()
    assert site.service()["suspension"] is None
    assert len(site.history()) == before


def test_operator_approves_deletions_that_are_held(site: Installation, make_visitor: MakeVisitor) -> None:
    from tests.page.looks import violations

    names = [f"demo/{name}.yaml" for name in ("tiny", "loud", "wrong")]
    before = {name: site.read(name) for name in names}
    page = make_visitor(site.address, **site.operator).open("/")
    site.write(dict.fromkeys(names), "Delete everything")
    page.locator("#attention a[href*='/actions/approve']").first.press("Enter")
    page.wait_for_url("**/actions/approve?*")
    assert "default/tiny" in page.locator("ul.deletions").inner_text()
    found = violations(page)
    assert not found, found
    page.locator("main form button").press("Enter")
    page.get_by_role("status").filter(has_text="Approved").wait_for()
    site.wait("all to be gone", lambda: not site.status()["targets"][0]["services"])
    assert "ada (web)" in str(site.history())
    site.write(before, "Take it back")
    site.settle()
