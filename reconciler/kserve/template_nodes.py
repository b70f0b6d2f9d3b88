"""The tree of a parsed Go template."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


class TemplateError(Exception):
    """The template cannot be parsed or executed."""


@dataclass(frozen=True, slots=True)
class Text:
    text: str


@dataclass(frozen=True, slots=True)
class Action:
    """A pipeline whose value is printed, unless it declares a variable."""

    pipe: Pipe


@dataclass(frozen=True, slots=True)
class Branch:
    """`if`, `with` or `range`."""

    word: str
    pipe: Pipe
    body: tuple[Any, ...]
    other: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Jump:
    """`break` or `continue`."""

    word: str


@dataclass(frozen=True, slots=True)
class Call:
    """`template "name" pipeline`."""

    name: str
    pipe: Pipe | None


@dataclass(frozen=True, slots=True)
class Pipe:
    """Commands that feed each other; `names` are the variables that get the value."""

    commands: tuple[tuple[Any, ...], ...]
    names: tuple[str, ...] = ()
    assigns: bool = False


@dataclass(frozen=True, slots=True)
class Chain:
    """An operand with fields after it. `base` is a Pipe, a Variable or None for the dot."""

    base: Any
    fields: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Variable:
    name: str


@dataclass(frozen=True, slots=True)
class Function:
    name: str


@dataclass(frozen=True, slots=True)
class Literal:
    value: Any


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed template: its own nodes, and those that it defines by name."""

    nodes: tuple[Any, ...]
    defined: dict[str, tuple[Any, ...]] = field(default_factory=dict)
