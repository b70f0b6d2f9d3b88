"""Keep secrets and terminal tricks out of everything that people or machines read from us."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeGuard

from reconciler.secrets.store import SIGNED, WELL_KNOWN, is_secret_name

HIDDEN = "***"

# Each prefix is bounded and begins at a word boundary: a long line must not cost the square of its length.
_USERINFO = re.compile(r"(?<![a-zA-Z0-9+.-])([a-zA-Z][a-zA-Z0-9+.-]{0,20}://)[^/\s'\"]+@")
# Letters alone are prose: "basic authentication", "bearer tokens".
_HEADER = re.compile(
    r"(?i)\b(bearer|basic)\s+(?![/.])(?=[a-z](?-i:[a-z]{0,18}[A-Z0-9_~+/=.-]|[a-z]{19})|[^a-z\s])[A-Za-z0-9._~+/=-]{6,}"
)
# What follows the colon of a sentence is not a value: an error's text, or a file's path.
_SAID = "access|are|cannot|connection|could|does|expected|extra|field|file|input|invalid|is|missing|must|no|none|not"
_SAID += "|permission|should|the|this|unexpected|unknown|value|you"
_ROOTS = "app|cache|data|dev|etc|home|mnt|models|opt|proc|root|run|srv|tmp|usr|var|workspace"
# Signs of a tokenizer's alphabet.
_SIGNS = "audio|begin|boi|bos|cls|end|eoi|eos|image|last|mask|next|pad|placeholder|sep|start|stop|unk|video"
# "unexpected token: }" is prose and stays, as does "/run/api-key: denied"; `token=…`, `'token': …`, `hf_token: …` go.
_ASSIGNED = re.compile(
    rf"(?i)(?<![\w-])(?!(?<=/)[\w-]{{1,64}}['\"]?:\s)(?!(?:[\w-]{{0,40}}[_-])?(?:{_SIGNS})[_-]token\b)"
    r"((?:[\w-]{0,64}?(?:password|passwd|secret|(?:api|access|private)[-_]?key|[_-]token)|token(?=['\"=]))"
    r"['\"]?\s{0,8}[=:]\s{0,8}['\"]?)(?!None\b|null\b|\[|\{)"
    rf"(?!(?<=:\s)(?:(?:{_SAID})\b[ .,]|/(?:{_ROOTS})/))([^\s'\",;)}}\]]*[^\s'\",;)}}\]:])"
)
# A value follows the name of a flag, but so does a sentence about it; and `…-batched-token` counts tokens.
_PROSE = "a|an|and|are|as|at|but|by|can|cannot|could|does|expects?|for|from|has|have|in|is|it|may|must|needs?|not|of|on"
_PROSE += (
    "|argument|file|flag|option|or|path|should|value|stands?|takes?|that|the|there|to|was|were|which|will|with|would"
)
_ARGUMENT = re.compile(
    r"(?i)(?<![\w-])(--[\w-]{0,64}?(?:password|passwd|secret|api-key|(?<!batched-)(?<!num-)(?<!max-)token)\s{1,8})"
    rf"(?!-|(?:{_PROSE})(?![^\s,.;:)]))(\S+)"
)
# Everything that moves a cursor, changes a title or hides text; tabs and line ends stay.
_CONTROL = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.)?"
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\U000e0000-\U000e007f]"
)


def scrub_text(text: str) -> str:
    """The text without credentials in URLs, headers, assignments and well-known token shapes."""
    text = _USERINFO.sub(rf"\1{HIDDEN}@", text)
    text = _HEADER.sub(rf"\1 {HIDDEN}", text)
    text = _ARGUMENT.sub(rf"\1{HIDDEN}", text)
    text = _ASSIGNED.sub(rf"\1{HIDDEN}", text)
    text = SIGNED.sub(rf"\1{HIDDEN}", text)
    return WELL_KNOWN.sub(HIDDEN, text)


def scrub(value: object, name: str = "") -> object:
    """The same value, at any depth, with secrets replaced. Numbers and truth values are never secrets."""
    match value:
        case str():
            return HIDDEN if value and is_secret_name(name) else scrub_text(value)
        case bytes():
            return scrub(value.decode("utf-8", "replace"), name)
        case Mapping():
            return {key: scrub(item, str(key)) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return _scrub_items(list(value), name)
        case _:
            return value


def _scrub_items(items: list[object], name: str) -> list[object]:
    """An argv may carry a secret in the item after its flag."""
    pairs = zip(["", *items], items, strict=False)
    return [scrub(item, before if _is_bare_flag(before) else name) for before, item in pairs]


def _is_bare_flag(item: object) -> TypeGuard[str]:
    return isinstance(item, str) and item.startswith("--") and "=" not in item


def printable(text: str) -> str:
    """The text without characters that a terminal would act on: logs and manifests are written by others."""
    return _CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))


def one_line(text: str) -> str:
    """The same in one line: a line end in foreign text could fake a line of ours, or command a CI."""
    return " ".join(printable(text).splitlines())
