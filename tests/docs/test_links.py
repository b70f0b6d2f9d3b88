"""Every relative link and anchor in our Markdown files leads somewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.documents import ROOT, documents

LAYOUT = ROOT / "repo_layout"
_FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`[^`\n]+`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)


def _links(path: Path) -> Iterator[tuple[Path, str]]:
    """File and anchor of each link that names no other site."""
    for link in _LINK.findall(_CODE.sub("", _FENCED.sub("", path.read_text()))):
        if "://" not in link:
            name, _, anchor = link.partition("#")
            yield ((path.parent / name).resolve() if name else path), anchor


def _anchors(path: Path) -> set[str]:
    """As forges make them of headings."""
    titles = [title.lower() for title in _HEADING.findall(_FENCED.sub("", path.read_text()))]
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_link_and_its_anchor_exist(path: Path):
    for to, anchor in _links(path):
        assert to.exists(), f"{to} does not exist"
        assert not anchor or anchor in _anchors(to), f"{to} has no heading for #{anchor}"


def test_layout_links_nothing_outside_itself():
    """`reconciler init` copies these documents into a repository that has none of the others."""
    outside = [to for path in LAYOUT.rglob("*.md") for to, _ in _links(path) if not to.is_relative_to(LAYOUT)]
    assert outside == []


def test_link_to_a_missing_heading_is_found(tmp_path: Path):
    (tmp_path / "a.md").write_text("# One `two`: three\n```\n# no heading, [no](link)\n```\n[x](a.md#one-two-three)\n")
    assert _anchors(tmp_path / "a.md") == {"one-two-three"}
    assert list(_links(tmp_path / "a.md")) == [(tmp_path / "a.md", "one-two-three")]
