"""The watch over pages itself: what a bad page does is found."""

from __future__ import annotations

import pytest

from tests.page.conftest import MakeVisitor
from tests.page.other_site import other_site

pytestmark = pytest.mark.web

BAD = """<!doctype html><title>Bad</title><link rel="icon" href="/icon">
<p style="color: red">styled</p><script>document.title = 'ran'</script><img src="/missing.png" alt="">
<img src="http://127.0.0.2:9/other.png" alt=""><script src="/throws.js"></script>"""
THROWS = "setTimeout(() => { throw new Error('thrown') }); console.warn('warned')"
PAGES = {"/": ("text/html", BAD), "/throws.js": ("text/javascript", THROWS), "/icon": ("image/png", "")}
POLICY = "default-src 'none'; script-src 'self'; img-src 'self'"


def test_every_fault_of_a_bad_page_is_found(make_visitor: MakeVisitor) -> None:
    with other_site(PAGES, POLICY) as address:
        visitor = make_visitor(address)
        page = visitor.open("/")
        page.wait_for_timeout(300)
        said, visitor.faults = "\n".join(visitor.faults), []
        assert page.title() == "Bad"
    for fault in ("inline style", "inline script", "answered 404", "script failed: thrown", "warned", "127.0.0.2"):
        assert fault in said, said


def test_page_that_keeps_its_promises_has_no_fault(make_visitor: MakeVisitor) -> None:
    with other_site({"/": ("text/html", "<title>Good</title><link rel=icon href='data:,'>")}) as address:
        visitor = make_visitor(address)
        visitor.open("/")
        visitor.judge()
