"""What is not for us: other kinds, and texts that another program has yet to render. In doubt it may be for us."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from reconciler.manifests.manifest import KNOWN_KINDS, OUR_API

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


_KSERVE = "serving.kserve.io"
_OUR_GROUPS = (_KSERVE, OUR_API.partition("/")[0])
# Kinds of KServe that we do not read; the names of some are near those of supported ones.
_FOREIGN = frozenset(
    {
        "ClusterLocalModel",
        "InferenceGraph",
        "LLMInferenceServiceConfig",
        "LocalModelNode",
        "LocalModelNodeGroup",
        "TrainedModel",
    }
)
# What tools leave in a file's place; the file itself may be of a supported kind.
_LEFT_BEHIND = (
    (rb"version https?://[\w.-]+/spec/v", "is a pointer of Git LFS and not the file itself; keep manifests out of LFS"),
    (
        rb"(\.\./)*(\.git)?/annex/objects/",
        "is a pointer of git-annex, not the file itself; keep manifests out of it",
    ),
    (
        rb"\$ANSIBLE_VAULT;|U2FsdGVkX1|-----BEGIN (AGE ENCRYPTED FILE|PGP MESSAGE)-----|age-encryption\.org/v",
        "is encrypted as a whole; encrypt the values of Secrets only, with SOPS",
    ),
)
_IN_ANY_CASE = {kind.casefold(): kind for kind in KNOWN_KINDS}
_SERVICE = b"inferenceservice"
_KIND_LINE = re.compile(rb"^kind:[ \t]*[\"']?([A-Za-z]+)|[\"']kind[\"'][ \t]*:[ \t]*[\"']([A-Za-z]+)", re.MULTILINE)
_KEYS = re.compile(rb"kind|apiversion", re.IGNORECASE)


def misspelt_kind(kind: str, api_version: str) -> tuple[str, str]:
    """Why an unknown kind cannot pass for a foreign object, after the kind that it seems to be. Empty when it can.

    Otherwise a typing error would look as if the service, or what it needs, had been deleted.
    """
    if kind.startswith("ENC["):
        return "", "SOPS encrypted the whole document; encrypt it with --encrypted-regex '^(data|stringData)$'"
    group = api_version.partition("/")[0]
    if kind in KNOWN_KINDS:
        versions = KNOWN_KINDS[kind]
        if api_version in versions or _is_of_others(group, kind):
            return "", ""
        return kind, f"{kind} has apiVersion {api_version[:80]}; expected {' or '.join(versions)}"
    near = _near(kind)
    if near and {_KSERVE, group} & _groups_of(near):
        return near, f"unknown kind {kind[:80]}; did you mean {near}?"
    if group in _OUR_GROUPS and kind not in _FOREIGN:
        return "", f"unknown kind {kind[:80]} in {group}"
    return "", ""


def _is_of_others(group: str, kind: str) -> bool:
    """May another API have this kind? Its group is then a domain's, and not nearly the right one."""
    right = _groups_of(kind)
    if _KSERVE in right or group in _OUR_GROUPS or "." not in group:
        return False
    return not difflib.get_close_matches(group, right, 1, 0.85)


def is_of_kserve(api_version: str) -> bool:
    """Is it of KServe's own group of kinds?"""
    return api_version.partition("/")[0] == _KSERVE


def is_foreign(value: Any) -> bool:
    """Is a document without kind or apiVersion certainly unrelated, not even one with a typing error?"""
    if isinstance(value, dict):
        kind = value.get("kind")
        if isinstance(kind, str) and (kind in KNOWN_KINDS or _near(kind) or kind.startswith("ENC[")):
            return False
        has_lost_its_head = isinstance(value.get("metadata"), dict) and (
            isinstance(value.get("spec"), dict) or isinstance(value.get("apiVersion"), str)
        )
        return not has_lost_its_head and not any(_names_ours(each) for each in value.values())
    if isinstance(value, list):
        return all(is_foreign(each) for each in value if isinstance(each, dict))
    return not isinstance(value, str) or not any(word in value.lower() for word in ("inferenceservice", _KSERVE))


def kind_of_broken(text: bytes) -> str | None:
    """What a text that cannot be parsed says it is, if that is certain. None: unrelated; "": in doubt."""
    kinds: set[str] = {(plain or quoted).decode() for plain, quoted in _KIND_LINE.findall(text)}
    if _SERVICE in text.lower():
        return "InferenceService" if kinds == {"InferenceService"} else ""
    if len(kinds) != 1 or (kind := kinds.pop()).endswith("List"):
        return ""
    if kind in KNOWN_KINDS:
        return kind
    return "" if _near(kind) else None


def left_behind(text: bytes) -> str:
    """Why a file is not what its name says but what a tool put there for it; empty: it is."""
    start = text[:200].lstrip()
    return next((why for pattern, why in _LEFT_BEHIND if re.match(pattern, start)), "")


def may_hide_services(data: bytes) -> bool:
    """May a file that is not parsed hold a service? Not where neither the kind nor its group stands anywhere in it."""
    text = data.lower()
    return b"\0" in text or _SERVICE in text or _KSERVE.encode() in text


def has_no_kind(text: bytes) -> bool:
    """Does neither `kind` nor `apiVersion` stand anywhere in it?"""
    return not _KEYS.search(text)


def _names_ours(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    group, slash, _ = value.partition("/")
    if slash and difflib.get_close_matches(group, _OUR_GROUPS, 1, 0.85):
        return True
    return value in KNOWN_KINDS and _KSERVE in _groups_of(value)


def _near(kind: str) -> str:
    near = difflib.get_close_matches(kind.casefold(), _IN_ANY_CASE, 1, 0.85)
    return _IN_ANY_CASE[near[0]] if near and kind not in _FOREIGN else ""


def _groups_of(kind: str) -> set[str]:
    return {version.partition("/")[0] for version in KNOWN_KINDS[kind]}
