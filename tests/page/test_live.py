"""An open page moves by itself: through a rollout, a failure, a time without git, and a restart of the daemon."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.page.conftest import MakeVisitor

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.page.browser import Visitor
    from tests.page.installation import Installation

pytestmark = pytest.mark.web

PATH, SERVICE = "demo/tiny.yaml", "/services/demo/default/tiny"
SEQS = r"--max-num-seqs=\S+"
SMALL = {"width": 800, "height": 400}
# The line of stages whenever it changes, and whether this is still the page that was opened.
WATCH = """() => {
    const stages = () => [...document.querySelectorAll('#rollout li')]
        .map(one => one.querySelector('b').innerText + ' ' + one.className).join(', ')
    window.seen = [stages()]
    const note = () => { if (stages() !== window.seen.at(-1)) window.seen.push(stages()) }
    const all = {subtree: true, childList: true, characterData: true, attributes: true}
    new MutationObserver(note).observe(document.querySelector('main'), all)
}"""
HOLD = """() => {
    window.held = document.querySelector('#state a.commit')
    window.held.focus({preventScroll: true})
    scrollTo(0, 300)
}"""
HELD = "() => [window.held === document.activeElement, Math.abs(scrollY - 300) < 60]"


@pytest.fixture
def visitor(site: Installation, make_visitor: MakeVisitor) -> Visitor:
    return make_visitor(site.address, viewport=SMALL, **site.operator)


@contextmanager
def without_reload(page: Page) -> Iterator[None]:
    """The page that is there before is there afterwards."""
    page.evaluate("() => { window.mark = true }")
    yield
    assert page.evaluate("() => window.mark === true"), "the page was loaded again"


def shows(page: Page, selector: str, *texts: str) -> None:
    """Wait until a part of the page has these texts."""
    from tests.page.browser import until

    until(page, lambda: all(text in page.locator(selector).inner_text() for text in texts))


def stages(page: Page) -> list[str]:
    found: list[str] = page.evaluate("() => window.seen")
    return found


def is_over(line: str) -> bool:
    return bool(line) and all(one.endswith((" done", " skipped")) for one in line.split(", "))


def test_rollout_is_seen_stage_by_stage_without_reload(site: Installation, visitor: Visitor) -> None:
    from tests.page.browser import until

    page = visitor.open(SERVICE)
    page.evaluate(WATCH)
    page.evaluate(HOLD)
    with without_reload(page):
        site.edit(PATH, SEQS, "--max-num-seqs=9")
        shows(page, "#workload", "--max-num-seqs=9")
        until(page, lambda: len(stages(page)) > 1 and is_over(stages(page)[-1]))
        seen = stages(page)
        for moving in ("started active", "first token active", "promoted active"):
            assert any(moving in line for line in seen), seen
        assert page.evaluate(HELD) == [True, True]
        shows(page, "#history", "promoted: 1/1 replicas available")


def test_failure_is_seen_with_what_the_engine_said_and_where(site: Installation, visitor: Visitor) -> None:
    page = visitor.open(SERVICE)
    page.evaluate(HOLD)
    with without_reload(page):
        line = site.edit(PATH, SEQS, "--max-num-seqs=many")
        shows(page, "#rollout", "failed")
        place = ":".join(line.split(":")[:2])
        shows(page, "#findings", "Rejected", "max-num-seqs", "many", place)
        shows(page, "#state", "1/1")
        assert page.evaluate(HELD)[0]
        site.edit(PATH, SEQS, "--max-num-seqs=10")
        shows(page, "#state", "Synced")
        page.locator("#findings").wait_for(state="detached")


def test_git_that_is_away_is_said_until_it_is_back(site: Installation, visitor: Visitor) -> None:
    page = visitor.open("/")
    origin = site.folder / "models.git"
    away = origin.with_name("away.git")
    with without_reload(page):
        origin.rename(away)
        try:
            shows(page, "#source", "Git cannot be read since")
            shows(page, "#services", "Healthy")
        finally:
            away.rename(origin)
        page.locator("#source .notice").wait_for(state="detached")


def test_page_reconnects_by_itself_after_a_restart_of_the_daemon(site: Installation, visitor: Visitor) -> None:
    visitor.expected = [r"net::ERR_(CONNECTION_REFUSED|INCOMPLETE_CHUNKED_ENCODING|CONNECTION_RESET)"]
    page = visitor.open("/")
    with without_reload(page):
        site.kill(signal.SIGTERM)
        shows(page, "#connection", "Not connected since")
        revision = site.edit(PATH, SEQS, "--max-num-seqs=11") and site.repository.head()
        site.start()
        page.locator("#connection:empty").wait_for(state="attached")
        shows(page, "#targets", revision[:8])
    site.settle()


def test_daemon_that_hangs_is_said_not_to_be_connected(site: Installation, visitor: Visitor) -> None:
    from tests.page.browser import until

    assert site.process is not None
    page = visitor.context.new_page()
    page.clock.install()
    page.goto("/")
    page.locator("#connection").wait_for(state="attached")
    site.process.send_signal(signal.SIGSTOP)
    try:
        # Its connections stay open, and nothing comes.
        page.clock.fast_forward(60_000)
        shows(page, "#connection", "Not connected since")
    finally:
        site.process.send_signal(signal.SIGCONT)
    until(page, lambda: page.clock.run_for(1_000) or not page.locator("#connection").inner_text())
