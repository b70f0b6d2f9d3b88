"""Whoever can write a name, a commit, a log line or a web site of their own does nothing to who looks at the page."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.page.conftest import MakeVisitor
from tests.page.other_site import other_site

if TYPE_CHECKING:
    from tests.page.installation import Installation

pytestmark = pytest.mark.web

# All that moves, hides or reverses what stands beside it.
INVISIBLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")
# A page of ten thousand replicas is larger; these have three.
MOST_CHARACTERS = 400_000


def test_hostile_texts_do_nothing(path: str, site: Installation, make_visitor: MakeVisitor) -> None:
    from tests.page.installation import SECRET

    page = make_visitor(site.address, **site.operator).open(path)
    content = page.content()
    assert "broken" not in page.title()
    assert page.locator("main script, main img, main style, main iframe").count() == 0
    assert not INVISIBLE.search(content)
    assert SECRET not in content
    assert len(content) < MOST_CHARACTERS


def test_hostile_texts_are_shown_as_what_they_are(site: Installation, make_visitor: MakeVisitor) -> None:
    from tests.page.installation import LAST_LINE, SCRIPT

    visitor = make_visitor(site.address, **site.operator)
    shown = {
        f"/changes/{site.hostile_revision}": (SCRIPT, "⟨U+202E⟩gnp.exe", "⟨U+001B⟩[31mred", "<img src=x onerror="),
        "/services/demo/default/loud?lines=1000": (SCRIPT, "⟨U+202E⟩gnp.exe", "\nred\n", "HF_TOKEN=***", LAST_LINE),
        "/services/demo/default/wrong": (SCRIPT, "demo/wrong.yaml:19"),
    }
    for path, texts in shown.items():
        said = visitor.open(path).locator("main").inner_text()
        assert not [text for text in texts if text not in said], said


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"], ids=["same-site", "other-site"])
def test_page_in_a_frame_of_others_stays_empty(host: str, site: Installation, make_visitor: MakeVisitor) -> None:
    from tests.page.browser import until

    frame = f'<title>Free models</title><link rel=icon href="data:,"><iframe src="{site.address}/"></iframe>'
    with other_site({"/": ("text/html", frame)}) as address:
        visitor = make_visitor(address.replace("127.0.0.1", host), **site.operator)
        visitor.expected = ["asked another host", "frame-ancestors", "X-Frame-Options"]
        page = visitor.open("/")
        until(page, lambda: [frame.url for frame in page.frames[1:]] == ["chrome-error://chromewebdata/"])
