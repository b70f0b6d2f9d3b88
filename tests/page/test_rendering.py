"""What stands on pages: texts from outside, times, sizes, and the parts that all pages use."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.page.rendering import MOST_CHARACTERS, STATIC, _environment, render, visible

NOW = 1_780_000_000.0
HIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def part(template: str, **known: Any) -> str:
    """What a template of a page makes of this."""
    source = '{% import "_parts.html" as ui with context %}' + template
    return _environment().from_string(source).render(now=NOW, **known).strip()


@given(st.text(st.characters(), max_size=200))
def test_text_from_outside_hides_nothing_and_is_bounded(text: str) -> None:
    shown = visible(text, 50)
    assert not HIDDEN.search(shown)
    assert len(shown) < 50 * 10 + 30
    assert visible(shown) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred", "⟨U+001B⟩[31mred"),
        ("user\u202etxt.exe", "user⟨U+202E⟩txt.exe"),
        ("a\u200bb\x00\x7f\x9b", "a⟨U+200B⟩b⟨U+0000⟩⟨U+007F⟩⟨U+009B⟩"),
        ("two\nlines\tand é 模型", "two\nlines\tand é 模型"),
        ("x" * 60, "x" * 50 + "… (60 characters)"),
    ],
)
def test_character_that_cannot_be_seen_is_made_visible(text: str, shown: str) -> None:
    assert visible(text, 50) == shown


def test_every_output_of_a_template_is_visible_cut_and_escaped() -> None:
    shown = part("<p title='{{ text }}'>{{ text }}</p>", text="<script>\u202e'" + "x" * 2 * MOST_CHARACTERS)
    assert "<script>" not in shown
    assert "\u202e" not in shown
    assert shown.count("&lt;script&gt;⟨U+202E⟩&#39;") == 2
    assert len(shown) < 2.2 * MOST_CHARACTERS


@pytest.mark.parametrize(
    ("template", "shown"),
    [
        ("{{ ui.health('Degraded', 'no GPU') }}", '<span class="badge bad" title="no GPU">Degraded</span>'),
        ("{{ ui.health('Odd') }}", '<span class="badge unknown">Odd</span>'),
        ("{{ ui.sync('OutOfSync') }}", '<span class="badge busy">OutOfSync</span>'),
        (
            "{{ ui.time(now - 300) }}",
            '<time datetime="2026-05-28T20:21:40Z" title="2026-05-28 20:21:40 UTC">5 min ago</time>',
        ),
        (
            "{{ ui.time('2026-05-29T00:26:40.000+02:00') }}",
            '<time datetime="2026-05-28T22:26:40Z" title="2026-05-28 22:26:40 UTC">in 2 h</time>',
        ),
        ("{{ ui.time(none) }}", "—"),
        (
            "{{ ui.commit('0123456789abcdef') }}",
            '<a class="commit" href="/changes/0123456789abcdef" title="0123456789abcdef"><code>01234567</code></a>',
        ),
        ("{{ ui.bytes(80 * 1024 ** 3) }}", '<data value="85899345920">80.0 GiB</data>'),
        ("{{ ui.bytes(512) }}", '<data value="512">512 B</data>'),
        ("{{ ui.place('a/b.yaml', 7) }}", '<code class="place">a/b.yaml:7</code>'),
        ("{{ ui.place('a/', 1) }}", '<code class="place">a/</code>'),
        ("{{ ui.empty('None yet.') }}", '<p class="empty">None yet.</p>'),
        ("{{ 90 | duration }}, {{ 7200 | duration }}", "90 s, 2 h"),
    ],
)
def test_part_of_a_page_is_shown_as_agreed(template: str, shown: str) -> None:
    assert part(template) == shown


def test_long_line_of_a_log_is_cut_and_others_stay() -> None:
    shown = part("{{ ui.log(lines, 'Log') }}", lines=["one", "y" * 1_000_000, "\x1b[2Jthree"])
    assert "y" * 2000 + "… (1,000,000 characters)" in shown
    assert "\n⟨U+001B⟩[2Jthree\n</pre>" in shown
    assert len(shown) < 3000


def test_page_asks_for_no_other_host_and_has_nothing_inline() -> None:
    shown = render(
        "message",
        document={"title": "A", "message": "B"},
        host="h",
        here="/gpus",
        now=NOW,
        version="1",
        attention=3,
        visitor_part="",
    )
    assert re.findall(r'(?:src|href)="(?!/|#)[^"]*"', shown) == []
    assert not re.search(r"style=|<style|\son[a-z]+=|<script(?! type=\"module\" src=)", shown)
    assert '<a href="/gpus" aria-current="page">GPUs</a>' in shown
    assert "3 need a person" in shown


def test_no_template_puts_out_markup_of_its_own_making() -> None:
    for template in (STATIC.parent / "templates").glob("*.html"):
        assert not re.search(r"\|\s*safe\b|autoescape|Markup", template.read_text()), template.name


def brightness(colour: str) -> float:
    digits = colour if len(colour) == 6 else "".join(2 * one for one in colour)
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    red, green, blue = (one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("ground", ["ground", "raised"])
@pytest.mark.parametrize("text", ["text", "faint", "link", "good", "busy", "bad", "held"])
def test_text_contrasts_with_its_ground_in_both_schemes(text: str, ground: str) -> None:
    style = (STATIC / "page.css").read_text()
    colours = [re.findall(rf"--{name}: #([0-9a-f]+);", style.partition("@media print")[0]) for name in (text, ground)]
    assert [len(one) for one in colours] == [2, 2]
    for pair in zip(*colours, strict=True):
        dark, light = sorted(map(brightness, pair))
        assert (light + 0.05) / (dark + 0.05) >= 4.5
