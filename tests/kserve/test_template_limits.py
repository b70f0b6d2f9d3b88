"""Go templates come from git: none may take the daemon's memory, its time, or a pass with it."""

from __future__ import annotations

import pytest

from reconciler.kserve.template import TemplateError, render


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{{.Name}}" * 20_000, "takes too long"),
        ("{{" + "(" * 3000 + "1" + ")" * 3000 + "}}", "expression depth"),
        ("{{if 1}}" * 3000 + "{{end}}" * 3000, "nested too deeply"),
        ("{{if 1}}{{else if 1" + "}}{{else if 1" * 3000 + "}}{{end}}", "nested too deeply"),
        ("{{" + "9" * 5000 + "}}", "a number such as 9"),
        ('{{printf "%200000000d" 1}}', "width or precision too large"),
        ('{{printf "%' + "9" * 5000 + 'd" 1}}', "error calling printf"),
        ('{{printf "' + "%1000d" * 5000 + '"' + " 1" * 5000 + "}}", "too long"),
        ("{{.Long | printf `%s%[1]s`}}" * 5, "too long"),
        ('{{"\\ud800"}}', "surrogate"),
        ("{{" + "(.Name)" * 3000 + "}}", "unexpected"),
    ],
)
def test_template_without_bounds_is_refused_by_name(text: str, says: str) -> None:
    with pytest.raises(TemplateError, match=says):
        render(text, {"Name": "tiny", "Long": "<" * 500_000}, html=True)


def test_value_that_is_worked_on_again_and_again_counts_by_its_length() -> None:
    with pytest.raises(TemplateError, match="takes too long"):
        render("{{len (html .Long)}}" * 2000, {"Long": "<" * 500_000}, html=False)


def test_template_of_an_ordinary_size_is_far_from_every_limit() -> None:
    text = "{{if eq .Word `a`}}{{printf `%s-%d,` .Word 1}}{{end}}" * 500 + "x" * 100_000
    assert render(text, {"Word": "a"}, html=True).startswith("a-1,a-1,")
