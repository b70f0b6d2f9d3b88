"""Texts of a preflight: arguments as options, what the engine understood in canonical form, complaints in one line.

Imported by preflight_probe.py, and like it: standard library only, Python 3.9 and later.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import enum
import hashlib
import json
import re
from collections.abc import Callable
from typing import Any

# What the host decides itself, and what has been read already.
NOT_COMPARED = {"host", "port", "model_tag", "config", "subparser", "dispatch_function"}
SECRET = {"api_key", "hf_token"}


@dataclasses.dataclass
class Option:
    """A flag with its values up to the next flag, or values before any flag (`name` is empty then)."""

    index: int
    name: str
    tokens: list[str]

    @property
    def value(self) -> str:
        first, _, joined = self.tokens[0].partition("=")
        return joined or " ".join(self.tokens[1:]) or ("" if self.name else first)


@dataclasses.dataclass
class Finding:
    """One error, and the index of the argument to blame; `others` may be to blame as well."""

    message: str
    index: int | None = None
    others: tuple[int, ...] = ()


def normal(token: str) -> str:
    """The flag of an argument as vLLM reads it: `--a_b.c=1` is `--a-b`."""
    if not token.startswith("-"):
        return ""
    name = token.split("=", 1)[0]
    return name.split(".", 1)[0].replace("_", "-") if name.startswith("--") else name


def split(argv: list[str]) -> list[Option]:
    options: list[Option] = []
    for index, token in enumerate(argv):
        if is_flag(token) or not options:
            options.append(Option(index, normal(token), [token]))
        else:
            options[-1].tokens.append(token)
    return options


def is_flag(token: str) -> bool:
    return token.startswith("-") and token.strip("-") != "" and not re.fullmatch(r"-\d+|-\d*\.\d+", token)


def paths_in(option: Option) -> list[str]:
    """The absolute paths that an option names: as its value, behind `name=`, or in JSON."""
    tokens = [option.tokens[0].partition("=")[2], *option.tokens[1:]]
    tokens += [*(token.partition("=")[2] for token in tokens), *re.findall(r'"(/[^"]*)"', option.value)]
    return [token.rstrip("/") for token in tokens if token.startswith("/") and len(token) > 1]


def join(options: list[Option]) -> list[str]:
    return [token for option in options for token in option.tokens]


# ---------------------------------------------------------------- what the engine understood


def canonical(value: Any) -> Any:
    """A JSON value that is equal for equal meaning."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, enum.Enum):
        return canonical(value.value)
    if isinstance(value, str):
        return canonical_text(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: canonical(getattr(value, f.name, None)) for f in dataclasses.fields(value) if is_set(value, f)}
    if callable(getattr(value, "model_dump", None)):
        return canonical(value.model_dump())
    if isinstance(value, dict):
        return {str(key): canonical(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted((canonical(item) for item in value), key=str)
    if isinstance(value, (list, tuple)):
        return [canonical(item) for item in value]
    name = getattr(value, "__qualname__", None) or repr(value)
    return re.sub(r" at 0x[0-9a-f]+", "", str(name))


def canonical_text(value: str) -> Any:
    if value.lstrip()[:1] not in ("{", "["):
        return value
    try:
        return canonical(json.loads(value))
    except (ValueError, RecursionError):
        return value


def is_set(value: Any, field: Any) -> bool:
    """Whether a field differs from its default."""
    current = getattr(value, field.name, None)
    default = field.default if field.default is not dataclasses.MISSING else None
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    return json.dumps(canonical(current), sort_keys=True) != json.dumps(canonical(default), sort_keys=True)


def text_of(args: argparse.Namespace, defaults: argparse.Namespace, outside: Callable[[str], str]) -> str:
    """All arguments that differ from the engine's defaults, as sorted JSON, with the container's paths."""
    chosen = {}
    for name, value in vars(args).items():
        mine = json.dumps(canonical(value), sort_keys=True)
        if name in NOT_COMPARED or mine == json.dumps(canonical(getattr(defaults, name, None)), sort_keys=True):
            continue
        if name in SECRET:
            mine = json.dumps("sha256:" + hashlib.sha256(mine.encode()).hexdigest()[:16])
        chosen[name] = json.loads(outside(mine))
    return json.dumps(chosen, sort_keys=True, separators=(",", ":"))


def replace_paths(text: str, paths: dict[str, str]) -> str:
    """Replace whole paths, and paths below them; the longest first."""
    for old in sorted(paths, key=len, reverse=True):
        new = paths[old].replace("\\", "\\\\")
        text = re.sub(rf"(?<![\w./-]){re.escape(old)}(?![\w.-])", new, text)
    return text


# What argparse and vLLM call the function that reads a value, and what a person has to write for it.
KINDS = {
    "loads": 'JSON, such as {"key": "value"}',
    "human_readable_int": "a whole number, such as 4096, 4k or 1.5M",
    "human_readable_int_or_auto": "auto or a whole number, such as 4096, 4k or 1.5M",
}
_CONVERTED = re.compile(r"Value (.*) cannot be converted to <\w+ '?([\w.<>]+?)'?(?: at 0x[0-9a-f]+)?>\.?(?=\s|$)")
_INVALID = re.compile(r"invalid (\w+) value: '(.*)'")


def expected(match: re.Match[str], value: str, name: str) -> str:
    name = name.rpartition(".")[2].strip("_")
    if name not in KINDS and match.re is _INVALID:
        return match[0]
    return f"invalid value '{value}': expected {KINDS.get(name, name.replace('_', ' '))}"


def plain(text: str) -> str:
    """Without names of functions and memory addresses."""
    text = _CONVERTED.sub(lambda match: expected(match, match[1], match[2]), text)
    text = _INVALID.sub(lambda match: expected(match, match[2], match[1]), text)
    return re.sub(r"<(?:function|bound method|class|built-in function) '?([\w.]+)'?[^<>]*>", r"\1", text)


def shorten(text: str) -> str:
    """One line, whole sentences up to some 300 characters: vLLM likes to add advice and pydantic links."""
    text = plain(text)
    if "validation error" in text:
        text = re.sub(r"^.*validation errors? for.*\n|\[type=.*|For further information.*", "", text, flags=re.M)
        text = re.sub(r"(?m)^([\w.]+)\n\s+", r"\1: ", text)
    text = re.sub(r"\s+", " ", text).strip()
    text = text.removeprefix("Error: ").replace("Value error, ", "")
    if len(text) <= 300:
        return text
    # A sentence that ends early may be followed by the path or the value that matters.
    end = text.rfind(". ", 150, 300)
    return text[: end + 1] if end > 0 else text[: max(text.rfind(" ", 0, 300), 150)] + " …"


# ---------------------------------------------------------------- complaints


def suggestion(token: str, known: list[str]) -> str:
    near = difflib.get_close_matches(token, known, 2, 0.7)
    likeness = {one: difflib.SequenceMatcher(None, token, one).ratio() for one in near}
    near = [one for one in near if likeness[one] > likeness[near[0]] - 0.1]
    return f"; did you mean {' or '.join(near)}?" if near else ""


def describe(error: BaseException) -> str:
    """An exception as one line for people."""
    if isinstance(error, IndexError):
        return "its value is missing"
    if problems_of(error):
        texts = [": ".join(filter(None, (".".join(map(str, p["loc"])), str(p["msg"])))) for p in problems_of(error)]
        return "; ".join(dict.fromkeys(map(shorten, texts)))
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return shorten(text) or type(error).__name__


def problems_of(error: BaseException) -> list[Any]:
    """What pydantic complains of, one by one."""
    problems = getattr(error, "errors", None)
    return list(problems()) if callable(problems) else []
