"""Reading what forges answer: nothing of it is believed to have a shape."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.forge.answers import at, integer, is_revision, items, numbered_pages, query_of, text
from reconciler.forge.http import Answer, ForgeAway, Request
from tests.forge.local_forge import Asked, LocalForge, Reply, local_forge

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=2),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def forge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalForge]:
    with local_forge(tmp_path_factory.mktemp("pki"), lambda asked: Reply()) as server:
        yield server


@given(JSON, st.lists(st.sampled_from(["a", "b"]), max_size=3))
def test_any_answer_reads_as_text_number_or_nothing(value: Any, path: list[str]) -> None:
    assert isinstance(text(value, *path), str)
    assert type(integer(value, *path)) is int
    found = at(value, *path)
    assert text(value, *path) in ("", found)
    if type(found) is int:
        assert integer(value, *path) == found


@pytest.mark.parametrize("url", ["http://[", "//[::1", "\ud800?a=\ud800", "", "?page=2"])
def test_any_next_page_is_a_query_that_can_be_sent_or_an_error(url: str) -> None:
    try:
        urlencode(query_of(text({"next": url}, "next")))
    except ForgeAway:
        assert "[" in url


@given(JSON)
def test_answer_without_a_list_is_not_an_empty_list(body: Any) -> None:
    if isinstance(body, list):
        assert items(Answer(200, {}, body)) == body
    else:
        with pytest.raises(ForgeAway, match="something else than the list"):
            items(Answer(200, {}, body))


def test_pages_end_where_no_other_is_named(forge: LocalForge) -> None:
    def answer(asked: Asked) -> Reply:
        page = int(asked.query["page"])
        return Reply(
            200, [page], {"Link": '<https://x/?page=2>; rel="next", <https://x>; rel="last"'} if page < 3 else {}
        )

    forge.answer = answer
    http = forge.http()
    assert list(numbered_pages(http, Request("GET", "/list", {"state": "open"}), 9)) == [1, 2, 3]
    assert list(numbered_pages(http, Request("GET", "/list"), 2)) == [1, 2]
    assert forge.asked[0].query == {"state": "open", "page": "1"}


def test_page_that_is_no_json_is_no_empty_page(forge: LocalForge) -> None:
    forge.answer = lambda asked: Reply(200, b"<html>sign in</html>")
    with pytest.raises(ForgeAway):
        list(numbered_pages(forge.http(), Request("GET", "/list"), 2))


@pytest.mark.parametrize(("value", "is_one"), [("a" * 40, True), ("a" * 64, True), ("a" * 12, False), ("A", False)])
def test_revision_has_all_its_digits(value: str, is_one: bool) -> None:
    assert is_revision(value) == is_one
