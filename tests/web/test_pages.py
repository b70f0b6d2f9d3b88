"""The pages over HTTP, with a loop that only answers."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from reconciler.web.client import UnknownService
from reconciler.web.pages.facts import PageNotFound
from reconciler.web.server import WebSide
from tests.support.report_world import with_service
from tests.web.fake_loop import FakeLoop, NoForge


def get(
    web: WebSide, path: str, accept: str = "text/html,*/*;q=0.8", headers: Mapping[str, str] | None = None
) -> tuple[http.client.HTTPResponse, str]:
    connection = http.client.HTTPConnection(*web.address, timeout=10)
    connection.request("GET", path, headers={"Accept": accept, **(headers or {})})
    response = connection.getresponse()
    return response, response.read().decode()


def test_page_is_html_for_browsers_and_json_for_scripts(web: WebSide):
    response, text = get(web, "/")
    assert response.status == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert "<h1>Overview</h1>" in text
    _, text = get(web, "/", "application/json")
    assert json.loads(text)["schema"] == "reconciler.page.overview/v1"


def test_page_that_the_browser_has_already_is_not_sent_again(web: WebSide, loop: FakeLoop):
    for accept in ("text/html", "application/json"):
        response, text = get(web, "/", accept)
        tag = response.headers["etag"]
        response, again = get(web, "/", accept, {"If-None-Match": f'"other", W/{tag}'})
        assert (response.status, response.headers["etag"], again) == (304, tag, "")
        assert response.headers["content-security-policy"]
        loop.document = with_service(loop.document, ready=f"{len(accept)}/9", sync="OutOfSync")
        response, again = get(web, "/", accept, {"If-None-Match": tag})
        assert response.status == 200
        assert again != text
    assert get(web, "/nowhere")[0].headers["etag"] is None


def test_all_parts_of_a_page_follow_from_the_same_moment(web: WebSide, loop: FakeLoop, monkeypatch: pytest.MonkeyPatch):
    read: list[int] = []
    monkeypatch.setattr(FakeLoop, "status", lambda self: read.append(1) or self.document)
    _, text = get(web, "/")
    assert "need a person" in text or "needs a person" in text
    assert read == [1]


def test_service_is_a_page_with_its_log_and_history(web: WebSide, loop: FakeLoop):
    loop.history = lambda service, limit: []  # type: ignore[method-assign]
    response, text = get(web, "/services/a/demo/tiny?lines=2")
    assert response.status == 200
    assert "<h1>demo/tiny" in text
    assert loop.asked == [("service_details", ("demo/tiny", "a", 2))]
    _, text = get(web, "/services/a/demo/tiny", "application/json")
    assert json.loads(text)["schema"] == "reconciler.page.service/v1"


def test_page_of_an_unknown_service_says_where_to_look(web: WebSide, loop: FakeLoop):
    for path in ("/services/b/demo/tiny", "/services/a/demo/%3Cscript%3E", f"/services/a/demo/{'x' * 5000}"):
        response, text = get(web, path)
        assert response.status == 404
        assert "<script>" not in text
    response, text = get(web, "/services/b/demo/tiny", "application/json")
    assert (response.status, json.loads(text)["title"]) == (404, "Not found")
    assert "it is at /services/a/demo/tiny" in json.loads(text)["message"]
    assert loop.asked == []


@pytest.mark.parametrize(
    ("page", "like_it"),
    [("/", "/?#&q=none-of-these"), ("/services/a/demo/tiny", "/services/a/demo/tin%0Ay")],
)
def test_page_is_not_shared_with_who_asks_for_one_like_it(
    web: WebSide, loop: FakeLoop, monkeypatch: pytest.MonkeyPatch, page: str, like_it: str
):
    begun, go_on = threading.Semaphore(0), threading.Event()

    def slow(self: FakeLoop) -> object:
        begun.release()
        assert go_on.wait(10)
        return self.document

    monkeypatch.setattr(FakeLoop, "status", slow)
    loop.history = lambda service, limit: []  # type: ignore[method-assign]
    with ThreadPoolExecutor(2) as people:
        first = people.submit(ask_raw, web, like_it)
        assert begun.acquire(timeout=10)
        second = people.submit(get, web, page)
        # Where both are one, the second waits for the first.
        begun.acquire(timeout=1)
        go_on.set()
        assert "demo/tiny</a>" not in first.result()
        response, text = second.result()
    assert response.status == 200
    assert "demo/tiny" in text


def ask_raw(web: WebSide, target: str) -> str:
    """As no library of HTTP would write it."""
    with socket.create_connection(web.address, 10) as connection:
        connection.sendall(f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        return connection.makefile("rb").read().decode()


@pytest.mark.parametrize("path", ["/changes/{:040x}", "/actions/sync?service={}"])
def test_pages_that_take_long_leave_threads_for_others(web: WebSide, monkeypatch: pytest.MonkeyPatch, path: str):
    go_on, begun = threading.Event(), []

    def slow(*_: object) -> Sequence[str]:
        begun.append(1)
        assert go_on.wait(10)
        raise UnknownService("there is no such service") if "service" in path else PageNotFound("none")

    monkeypatch.setattr(NoForge, "find", slow, raising=False)
    monkeypatch.setattr("reconciler.web.pages.actions.resolve_service", slow)
    with ThreadPoolExecutor(60) as people:
        asking = [people.submit(get, web, path.format(number)) for number in range(60)]
        try:
            assert get(web, "/readyz")[0].status == get(web, "/")[0].status == 200
        finally:
            go_on.set()
        assert {one.result()[0].status for one in asking} == {404}
    assert len(begun) == 60
