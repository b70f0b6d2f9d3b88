"""Marks of comments where HTML comments would be shown."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from reconciler.forge.comments import MOST_CHARACTERS, MOST_SECTIONS, merge
from reconciler.forge.hidden_marks import hide_marks, restore_marks
from reconciler.forge.messages import Section

_LINES = ["<!-- reconciler: plan -->", "<!-- reconciler: end gpu-1 -->", "text", "", "| a | b |", "<!-- other -->"]
_SECTIONS = st.builds(
    Section, st.just(1), st.sampled_from(["a", "b-1"]), st.lists(st.sampled_from(_LINES)).map("\n".join)
)


@given(st.lists(st.sampled_from(_LINES)).map("\n".join))
def test_marks_are_hidden_and_come_back(body: str) -> None:
    hidden = hide_marks(body)
    assert "<!-- reconciler:" not in hidden
    assert restore_marks(hidden) == body


@given(st.lists(_SECTIONS, min_size=1, max_size=3))
def test_sections_are_found_again_in_what_a_forge_trimmed(sections: list[Section]) -> None:
    body = ""
    for section in sections:
        body = restore_marks(hide_marks(merge(body, section)).strip().replace("\n", "\r\n"))
        assert merge(body, section) == body


def test_fullest_comment_is_within_bitbuckets_cap() -> None:
    body = ""
    for number in range(MOST_SECTIONS + 1):
        body = merge(body, Section(1, f"{number:02}-{'x' * 60}", "plan\n" * 20))
    body = merge(body, Section(1, f"00-{'x' * 60}", "line\n" * MOST_CHARACTERS))
    assert len(body) > MOST_CHARACTERS - 2000
    assert len(hide_marks(body)) <= 32_768


def test_definition_has_an_empty_line_before_it() -> None:
    assert hide_marks("| x |\n<!-- reconciler: end a -->") == "| x |\n\n[//]: # (reconciler: end a)\n"
