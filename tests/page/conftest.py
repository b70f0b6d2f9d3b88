"""What the tests of the page in a real browser share: one Chromium, one installation, and visitors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    # It loads for a third of a second, which the quick tests would pay as well.
    from playwright.sync_api import Browser

    from tests.page.browser import Visitor

MakeVisitor = Callable[..., "Visitor"]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    from tests.page.browser import chromium

    with chromium() as found:
        yield found


@pytest.fixture
def make_visitor(browser: Browser) -> Iterator[MakeVisitor]:
    """Visitors of an address; a promise that was broken to one of them fails the test."""
    from tests.page.browser import Visitor

    visitors: list[Visitor] = []

    def make(address: str, **options: Any) -> Visitor:
        visitors.append(Visitor(browser, address, **options))
        return visitors[-1]

    yield make
    for visitor in visitors:
        visitor.close()
    for visitor in visitors:
        visitor.judge()
