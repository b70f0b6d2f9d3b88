"""Chromium, in which every page is watched: a page that breaks a promise of ours fails the test that opened it.

What is promised to whoever opens a page: its security policy is kept, nothing is written to the browser's console, no
script fails, everything comes from the daemon, and everything that is asked for is there.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, Response, sync_playwright

# A page's own address is judged by the test; of what it asks for besides, nothing may be missing.
_FINE = (200, 204, 303, 304)


@contextmanager
def chromium() -> Iterator[Browser]:
    """One browser; skips where there is none."""
    found = shutil.which("chromium")
    if found is None:
        pytest.skip("no Chromium to test with: run tests/run.sh web once, or install it")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found)
        yield browser
        browser.close()


def tools() -> Path:
    """The folder with axe-core and TypeScript; skips where there is none."""
    folder = os.environ.get("RECONCILER_TEST_PAGE_TOOLS", "")
    if not Path(folder, "complete").is_file():
        pytest.skip("nothing to judge the page with: run tests/run.sh web once, or set RECONCILER_TEST_PAGE_TOOLS")
    return Path(folder)


def until(page: Page, claim: Callable[[], object]) -> None:
    """Wait for what comes about in or because of a page; the limit is only there so that a failure ends."""
    for _ in range(600):
        if claim():
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"did not come about; the page is\n{page.locator('body').inner_text()}")


class Visitor:
    """Somebody with a browser of their own: no cookies, no cache. Paths are at `address`, which is all they may ask.

    `faults` is what broke a promise so far; what matches one of `expected` is none.
    """

    def __init__(self, browser: Browser, address: str, **options: Any) -> None:
        self.address = address
        self.faults: list[str] = []
        self.expected: list[str] = []
        self.context: BrowserContext = browser.new_context(base_url=address, **options)
        self.context.set_default_timeout(20_000)
        self.context.on("console", self._on_console)
        self.context.on("weberror", lambda error: self._blame(f"script failed: {error.error}"))
        self.context.on("request", self._on_request)
        self.context.on("response", self._on_response)

    def open(self, path: str, status: int = 200) -> Page:
        """A new tab with this page, which must answer with this status."""
        page = self.context.new_page()
        response = page.goto(path)
        assert response is not None
        assert response.status == status, f"{path}: {response.status}\n{response.text()[:2000]}"
        return page

    def judge(self) -> None:
        """Fail for what was seen, and start over."""
        faults, self.faults = self.faults, []
        assert not faults, "\n".join(faults)

    def close(self) -> None:
        self.context.close()

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning", "assert"):
            self._blame(f"console, {message.type}: {message.text} ({message.location.get('url')})")

    def _on_request(self, request: Request) -> None:
        if not request.url.startswith(("blob:", "about:")) and urlsplit(request.url)[:2] != urlsplit(self.address)[:2]:
            self._blame(f"asked another host: {request.url}")

    def _on_response(self, response: Response) -> None:
        if not response.request.is_navigation_request() and response.status not in _FINE:
            self._blame(f"answered {response.status}: {response.url}")

    def _blame(self, fault: str) -> None:
        if not any(re.search(each, fault) for each in self.expected):
            self.faults.append(fault)
