"""Every page can be used by everybody: without a mouse, without a script, on a telephone, enlarged, in the dark."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.page.conftest import MakeVisitor

if TYPE_CHECKING:
    from tests.page.browser import Visitor
    from tests.page.installation import Installation

pytestmark = pytest.mark.web

PHONE = {"width": 360, "height": 740}
# What is left of 1280 x 800 pixels at 200 %.
ENLARGED = {"width": 640, "height": 400}
# Ages, and all other numbers, which may be others a second later.
NUMBER = re.compile(r"\d+( (s|min|h)\b)?")


@pytest.fixture
def visitor(site: Installation, make_visitor: MakeVisitor) -> Visitor:
    return make_visitor(site.address, **site.operator)


def test_page_has_no_violation_in_light_and_dark(name: str, path: str, visitor: Visitor, artefacts: Path) -> None:
    from tests.page.looks import violations

    page = visitor.open(path)
    assert page.locator("h1").count() == 1
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.screenshot(path=artefacts / f"{name}-{scheme}.png", full_page=True)
        found = violations(page)
        assert not found, found


@pytest.mark.parametrize("size", [PHONE, ENLARGED], ids=["phone", "enlarged"])
def test_page_on_a_small_screen_never_scrolls_sideways(
    size: dict[str, int], name: str, path: str, visitor: Visitor, artefacts: Path, request: pytest.FixtureRequest
) -> None:
    from tests.page.looks import too_wide

    page = visitor.open(path)
    page.set_viewport_size(size)
    page.screenshot(path=artefacts / f"{name}-{size['width']}.png", full_page=True)
    assert not too_wide(page)


def test_page_by_keyboard_alone_reaches_all_visibly(path: str, visitor: Visitor) -> None:
    from tests.page.looks import reachable, walk_by_tab

    page = visitor.open(path)
    # Names hold a place in the document, which is another one once something is shown above that was not before.
    for _ in range(3):
        steps = walk_by_tab(page)
        missed = set(reachable(page)) - {step["name"] for step in steps}
        if not missed:
            break
    assert not missed
    assert [step["name"] for step in steps if not (step["ring"] and step["seen"])] == []


def test_page_without_script_says_the_same(path: str, site: Installation, make_visitor: MakeVisitor) -> None:
    texts = []
    for script in (True, False):
        page = make_visitor(site.address, java_script_enabled=script, **site.operator).open(path)
        text = page.locator("body").inner_text()
        for log in page.locator(".log").all_inner_texts():
            assert log.strip()
            # It is longer by now.
            text = text.replace(log.strip(), "LOG")
        texts.append(NUMBER.sub("N", text))
    assert texts[0] == texts[1]
