"""What forges have room for."""

from __future__ import annotations

from reconciler.forge.caps import short_url


def test_url_that_is_too_long_loses_its_part_of_the_page_first():
    page = "https://box/changes/0123"
    assert short_url(f"{page}#host", 100) == f"{page}#host"
    assert short_url(f"{page}#host", len(page)) == page
    assert short_url(f"{page}#host", len(page) - 1) == ""
