"""Go templates come from git: none may take the daemon's memory, its time, or a pass with it."""

from __future__ import annotations

import pytest

from reconciler.kserve.template import TemplateError, render

DOUBLING = '{{$x := "0123456789abcdef"}}' + '{{$x = printf "%s%s" $x $x}}' * 60 + "{{len $x}}"
MANY_NAMES = "".join(f"{{{{$v{n} := 1}}}}" for n in range(3000)) + "{{range 20000}}{{end}}"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (DOUBLING, "text gets too long|takes too long"),
        ("{{range 20000}}{{range 20000}}{{range 20000}}{{end}}{{end}}{{end}}", "takes too long"),
        ("{{range 20000}}{{$y := 1}}{{end}}", "takes too long"),
        (MANY_NAMES, "takes too long"),
        ('{{define "a"}}{{template "a"}}{{template "a"}}{{end}}{{template "a"}}', "depth"),
        ("{{" + "(" * 3000 + "1" + ")" * 3000 + "}}", "expression depth"),
        ("{{if 1}}" * 3000 + "{{end}}" * 3000, "nested too deeply"),
        ("{{0x" + "f" * 5000 + "}}", "integer overflow"),
        ("{{" + "9" * 5000 + "}}", "bad number"),
        ("{{1e999}}", "bad number"),
        ('{{printf "%.200000000f" 1.5}}', "precision too large"),
        ('{{printf "%200000000d" 1}}', "width or precision too large"),
        ('{{printf "%' + "9" * 5000 + 'd" 1}}', "error calling printf"),
        ('{{$x := printf "%1000d" 1}}{{print ' + "$x " * 5000 + "}}", "too long"),
        ('{{$x := printf "%1000d" 1}}{{printf "' + "%s" * 5000 + '"' + " $x" * 5000 + "}}", "too long"),
        ('{{"\\ud800"}}', "surrogate"),
        ("{{" + "($x)" * 3000 + "}}", "unexpected"),
    ],
)
def test_template_without_bounds_is_refused_by_name(text: str, says: str) -> None:
    with pytest.raises(TemplateError, match=says):
        render(text, {"Name": "tiny"}, html=True)


def test_value_that_is_worked_on_again_and_again_counts_by_its_length() -> None:
    with pytest.raises(TemplateError, match="takes too long"):
        render("{{range 20000}}{{len (html $.Long)}}{{end}}", {"Long": "<" * 500_000}, html=False)


def test_template_of_an_ordinary_size_is_far_from_every_limit() -> None:
    text = "{{range $n, $x := .Words}}{{if eq $x `a`}}{{printf `%s-%d,` $x $n}}{{end}}{{end}}" + "x" * 100_000
    assert render(text, {"Words": ["a", "b"] * 500}, html=True).startswith("a-0,a-2,")
