"""The watch over pages itself: what a bad page does is found."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator

import pytest

from tests.page.conftest import MakeVisitor

pytestmark = pytest.mark.web

BAD = """<!doctype html><title>Bad</title><link rel="icon" href="/icon">
<p style="color: red">styled</p><script>document.title = 'ran'</script><img src="/missing.png" alt="">
<img src="http://127.0.0.2:9/other.png" alt=""><script src="/throws.js"></script>"""
THROWS = "setTimeout(() => { throw new Error('thrown') }); console.warn('warned')"


class _Bad(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        found = {"/": (BAD, "text/html"), "/throws.js": (THROWS, "text/javascript"), "/icon": ("", "image/png")}
        body, kind = found.get(self.path, ("", "text/plain"))
        self.send_response(200 if self.path in found else 404)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Security-Policy", "default-src 'none'; script-src 'self'; img-src 'self'")
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def bad_server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Bad) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_every_fault_of_a_bad_page_is_found(bad_server: str, make_visitor: MakeVisitor) -> None:
    visitor = make_visitor(bad_server)
    page = visitor.open("/")
    page.wait_for_timeout(300)
    said, visitor.faults = "\n".join(visitor.faults), []
    for fault in ("inline style", "inline script", "answered 404", "script failed: thrown", "warned", "127.0.0.2"):
        assert fault in said, said
    assert page.title() == "Bad"


def test_page_that_keeps_its_promises_has_no_fault(bad_server: str, make_visitor: MakeVisitor) -> None:
    visitor = make_visitor(bad_server)
    visitor.open("/icon")
    visitor.judge()
