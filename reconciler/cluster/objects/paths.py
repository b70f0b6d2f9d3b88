"""The path of a field: `spec.replicas`, `spec.template.spec.containers[name=x].image`. Pure.

`[name=x]` is the item of a list with that key, `[*]` every item, and `["a.b/c"]` a name that holds such signs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

_NAME = re.compile(r"[^.\[\]\s,=\"]+")
_BRACKET = re.compile(r'\[(?:(\*)|"([^"\[\]]{1,512})"|([^\[\]"*]{1,512}))\]')
_LONGEST = 2_000
# What an object is cannot be left to others.
_IDENTITY: Final = (("apiVersion",), ("kind",), ("metadata",), ("metadata", "name"), ("metadata", "namespace"))


class _Every(Enum):
    EVERY = "*"


EVERY: Final = _Every.EVERY
"""Every item of a list."""


@dataclass(frozen=True, slots=True)
class Item:
    """The item of a list whose fields have these values; a number is compared by how it is written."""

    keys: tuple[tuple[str, str], ...]

    def matches(self, item: Mapping[str, Any]) -> bool:
        return all(key in item and str(item[key]) == value for key, value in self.keys)


Step = str | Item | _Every
Path = tuple[Step, ...]


def parse_path(text: str) -> Path:
    """Raises ValueError with what is wrong."""
    if len(text) > _LONGEST:
        raise ValueError(f"the path {text[:40]}… is longer than {_LONGEST} characters")
    path = tuple(_steps(text))
    if not path or path in _IDENTITY:
        raise ValueError(f'"{text}" is what the object is, and cannot be ignored' if path else "the path is empty")
    return path


def _steps(text: str) -> list[Step]:
    steps: list[Step] = []
    place = 0
    while place < len(text):
        if (bracket := _BRACKET.match(text, place)) and (steps or bracket[2]):
            steps.append(_in_brackets(bracket, text))
            place = bracket.end()
            continue
        if text[place] == "." and steps:
            place += 1
        elif steps:
            raise _wrong(text, place)
        if not (name := _NAME.match(text, place)):
            raise _wrong(text, place)
        steps.append(name[0])
        place = name.end()
    return steps


def _in_brackets(bracket: re.Match[str], text: str) -> Step:
    if bracket[1]:
        return EVERY
    if bracket[2]:
        return bracket[2]
    pairs = [pair.partition("=") for pair in bracket[3].split(",")]
    if not all(name.strip() and sign for name, sign, _ in pairs):
        raise ValueError(f'"{text}": write [name=value], [*] or ["a.name"] instead of {bracket[0]}')
    return Item(tuple((name.strip(), value.strip()) for name, _, value in pairs))


def _wrong(text: str, place: int) -> ValueError:
    return ValueError(f'"{text}" is no path at character {place + 1}; write for example spec.containers[name=x].image')


def split_paths(text: str) -> list[str]:
    """A list of paths separated by commas, which may stand in brackets as well."""
    parts = re.findall(r"(?:\[[^\]]*\]|[^,\[])+|\[", text)
    return [part.strip() for part in parts if part.strip()]
