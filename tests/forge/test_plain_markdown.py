"""Comments where HTML would be shown."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from reconciler.forge.comments import MOST_CHARACTERS, MOST_SECTIONS, merge
from reconciler.forge.messages import CommentSection
from reconciler.forge.plain_markdown import with_html, without_html

_LINES = [
    "<!-- reconciler: plan -->",
    "<!-- reconciler: end gpu-1 -->",
    "text",
    "",
    "a<br>b",
    " ↵ ",
    "<br>↵<br>",
    "<!-- other -->",
]
_SECTIONS = st.builds(
    CommentSection, st.just(1), st.sampled_from(["a", "b-1"]), st.lists(st.sampled_from(_LINES)).map("\n".join)
)


@given(st.lists(st.sampled_from(_LINES)).map("\n".join))
def test_html_is_taken_out_and_comes_back(body: str) -> None:
    plain = without_html(body)
    assert "<!-- reconciler:" not in plain
    assert "<br>" not in plain
    assert with_html(plain) == body


@given(st.text("<br>↵ a\n", max_size=40))
def test_any_text_comes_back(body: str) -> None:
    assert with_html(without_html(body)) == body


@given(st.lists(_SECTIONS, min_size=1, max_size=3))
def test_sections_are_found_again_in_what_a_forge_trimmed(sections: list[CommentSection]) -> None:
    body = ""
    for section in sections:
        body = with_html(without_html(merge(body, section)).strip().replace("\n", "\r\n"))
        assert merge(body, section) == body


def test_fullest_comment_is_within_bitbuckets_cap() -> None:
    body = ""
    for number in range(MOST_SECTIONS + 1):
        body = merge(body, CommentSection(1, f"{number:02}-{'x' * 60}", "plan\n" * 20))
    body = merge(body, CommentSection(1, f"00-{'x' * 60}", "line\n" * MOST_CHARACTERS))
    assert len(body) > MOST_CHARACTERS - 2000
    assert len(without_html(body)) <= 32_768


def test_definition_has_an_empty_line_before_it() -> None:
    assert without_html("| x |\n<!-- reconciler: end a -->") == "| x |\n\n[//]: # (reconciler: end a)\n"
