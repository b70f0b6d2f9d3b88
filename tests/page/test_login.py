"""Login with a real identity provider in a real browser, whose cookies and security policies are those that count."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.page.conftest import MakeVisitor

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.page.browser import Visitor
    from tests.web.oidc_provider.world import World

pytestmark = pytest.mark.web


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    from tests.web.oidc_provider.world import running

    with running(tmp_path_factory.mktemp("world")) as found:
        yield found


@pytest.fixture
def visitor(world: World, make_visitor: MakeVisitor) -> Visitor:
    found = make_visitor(world.url, ignore_https_errors=True)
    # The provider's pages are its own: what they ask for is not ours.
    found.expected = [re.escape(world.provider.issuer), "fonts"]
    return found


def log_in(visitor: Visitor, path: str, user: str) -> Page:
    page = visitor.open(path)
    page.get_by_role("link", name="Log in with").click()
    page.locator("input[name=login]").fill(user)
    page.locator("input[name=password]").fill("any")
    page.locator("input[name=password]").press("Enter")
    page.wait_for_url(f"{visitor.address}/**")
    return page


def test_operator_comes_back_from_the_provider_to_the_page(visitor: Visitor) -> None:
    page = log_in(visitor, "/gpus", "olga")
    assert page.url == f"{visitor.address}/gpus"
    assert "olga@example.com" in page.locator("header").inner_text()
    assert page.goto("/actions/sync").status == 200


def test_who_is_in_no_group_comes_back_to_a_refusal(visitor: Visitor) -> None:
    visitor.expected.append("status of 403")
    page = log_in(visitor, "/gpus", "nina")
    assert "nina" in page.locator("main").inner_text()
    assert "/login" in visitor.open("/gpus").url
