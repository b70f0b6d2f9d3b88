"""What the tests of the page in a real browser share: one Chromium, one installation, and visitors."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    # It loads for a third of a second, which the quick tests would pay as well.
    from playwright.sync_api import Browser

    from tests.page.browser import Visitor
    from tests.page.installation import Installation

MakeVisitor = Callable[..., "Visitor"]
# Every kind of page, and what it shows.
PATHS = {
    "overview": "/",
    "overview-asked": "/?health=Degraded&sort=-name&q=r",
    "gpus": "/gpus",
    "service": "/services/demo/default/tiny",
    "service-loud": "/services/demo/default/loud?lines=1000",
    "service-refused": "/services/demo/default/wrong",
    "changes": "/changes",
    "change": "/changes/{revision}",
    "repository": "/repository",
    "login": "/login",
    "sync": "/actions/sync",
    "suspend": "/actions/suspend?service=default/tiny",
}


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    from tests.page.browser import chromium

    with chromium() as found:
        yield found


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory, engine_python: Path, tiny_model: Path) -> Iterator[Installation]:
    """It settled. Who changes it puts it back."""
    from tests.page.installation import Installation

    found = Installation(tmp_path_factory.mktemp("site"), engine_python, tiny_model)
    found.start()
    found.settle()
    yield found
    found.close()


@pytest.fixture(scope="session")
def artefacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for pictures of the pages."""
    named = os.environ.get("RECONCILER_TEST_ARTEFACTS")
    folder = Path(named) if named else tmp_path_factory.mktemp("artefacts")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


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


@pytest.fixture(params=PATHS)
def name(request: pytest.FixtureRequest) -> str:
    """Of a page: each in turn."""
    return str(request.param)


@pytest.fixture
def path(name: str, site: Installation) -> str:
    """The address of that page."""
    return PATHS[name].format(revision=site.hostile_revision)
