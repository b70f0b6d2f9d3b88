"""The pages over HTTP, with a loop that only answers."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping

from reconciler.web.server import WebSide


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
