"""Texts that another program still has to render: whose template it is, and what to commit instead. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

_HELM_WORDS = r"\.(?:Values|Release|Chart|Capabilities|Files|Template)\b|(?:include|tpl|toYaml|template)\s"
_HELM = re.compile(r"\{\{-?\s*(?:" + _HELM_WORDS + ")")
# `{{.Name}}` is for KServe to fill in.
_HELM_BLOCK = re.compile(r"\{\{-?\s*(?:" + _HELM_WORDS + r"|(?:if|else|range|with|end|define|block)\b|/\*|\$)")
# What only one tool writes goes first. The others' signs may also stand in a text for the engine.
_SURE = ((re.compile(r"\$\{\{"), "OpenShift"), (_HELM_BLOCK, "Helm"))
_LIKELY = (
    (re.compile(r"\{%[-+]?\s*\w|\{#\s"), "Jinja"),
    (re.compile(r"^\s*#@"), "ytt"),
    (re.compile(r"<%[=-]?\s"), "ERB"),
    (re.compile(r"\{\{-?\s*[A-Za-z_]"), "Jinja"),
    (re.compile(r"\$\{[A-Za-z_]\w*(?:[:=-][^}]*)?\}"), "envsubst"),
)
_HOLES = re.compile(r"\{\{-?\s*(?:[A-Za-z_$]|" + _HELM_WORDS + r").*?\}\}|\{%.*?%\}|\$\{\{?[A-Za-z_][^}]*\}?\}|<%.*?%>")
# Where `${X}` and `{{ x }}` are for others to fill in: a shell, the engine, people.
_OTHERS_TEXT = frozenset({"annotations", "args", "command", "env", "labels", "lifecycle"})
_NEAR = 2
_LONGEST_LINE = 1000
_MOST = 3


def may_be_template(data: bytes) -> bool:
    """Does any sign of one stand in it?"""
    return any(sign in data for sign in (b"{{", b"${", b"{%", b"<%"))


def find_template(data: bytes, path: str, broken_at: int) -> tuple[int, str]:
    """Where a text that is no YAML shows whose template it is, and what to say of it; empty: it does not show it.

    Lines count from 0, as does that at which it is broken.
    """
    text = data.decode(errors="replace")
    for mark, tool in _SURE:
        if found := mark.search(text):
            return text.count("\n", 0, found.start()), _not_rendered(tool, path)
    first = max(0, broken_at - _NEAR)
    lines = [line[:_LONGEST_LINE] for line in text.split("\n")[first : broken_at + _NEAR + 1]]
    found_at = [
        (number, tool) for number, line in enumerate(lines, first) for mark, tool in _LIKELY if _shows(mark, line)
    ]
    number, tool = next(iter(found_at), (0, ""))
    return (number, _not_rendered(tool, path)) if tool else (0, "")


def _shows(mark: re.Pattern[str], line: str) -> bool:
    """Inside quotes it cannot be why a text is no YAML."""
    found = mark.search(line)
    return found is not None and not set(line[: found.start()]) & set("'\"")


def _not_rendered(tool: str, path: str) -> str:
    return f"is {_KINDS[tool]} that is not rendered: {advice(tool, path)}"


_KINDS = {
    "ERB": "an ERB template",
    "envsubst": "a template for envsubst, or for Flux,",
    "Helm": "a Helm template",
    "Jinja": "a Jinja template",
    "OpenShift": "an OpenShift Template",
    "ytt": "a ytt template",
}


def advice(tool: str, path: str) -> str:
    commands = {
        "Helm": f"`helm template NAME {_chart(path)}`",
        "OpenShift": f"`oc process --local -f {path} -o yaml`",
        "envsubst": f"`envsubst < {path}`",
        "ytt": f"`ytt -f {path}`",
    }
    return f"commit what {commands.get(tool, f'{tool} makes of it')}{' prints' * (tool in commands)}"


def _chart(path: str) -> str:
    """The folder of the chart that a template is of."""
    folder, inside, _ = f"/{path}".rpartition("/templates/")
    return folder[1:] or "." if inside else "CHART"


def hole_in(text: str, path: str) -> str:
    """What is to be said of a value that a tool should have filled in; empty where it is complete."""
    found = _HOLES.search(text[:500])
    if not found:
        return ""
    tool = next((tool for mark, tool in (*_SURE, *_LIKELY) if mark.search(found[0])), "")
    return f"; {found[0][:80]} is not filled in" + (f": {advice(tool, path)}" if tool else "")


def unfilled(value: Any, path: str, fields: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], str]]:
    """Fields of a document that hold what a tool should have filled in, each with what to do; the first few."""
    for count, found in enumerate(_unfilled(value, path, fields)):
        if count == _MOST:
            return
        yield found


def _unfilled(value: Any, path: str, fields: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], str]]:
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _unfilled(each, path, (*fields, key))
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from _unfilled(each, path, (*fields, index))
    elif isinstance(value, str) and _is_unfilled(value[:500], fields):
        yield fields, hole_in(value, path).removeprefix("; ")


def _is_unfilled(value: str, fields: tuple[Any, ...]) -> bool:
    if "{" not in value and "<%" not in value:
        return False
    return bool(_HELM.search(value) or (not _OTHERS_TEXT & set(fields) and _HOLES.search(value)))
