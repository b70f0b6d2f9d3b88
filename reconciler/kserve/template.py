"""Go's template language: tree → text, over plain data. `html` escapes every printed value as html/template does."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from reconciler.kserve.template_syntax import (
    Branch,
    Field,
    Function,
    Literal,
    Node,
    Operand,
    Pipe,
    TemplateError,
    parse,
    unsupported,
)

__all__ = ["Struct", "TemplateError", "parse", "render"]

MAX_STEPS = 20_000
MAX_LENGTH = 1 << 20
# So much of a value costs one step: what is worked on counts as well as how often.
_LENGTH_OF_A_STEP = 256
# Of a number in printf: of columns, or of digits behind the point.
_WIDEST = 1000
_HTML = str.maketrans(
    {"\0": "\ufffd", '"': "&#34;", "&": "&amp;", "'": "&#39;", "+": "&#43;", "<": "&lt;", ">": "&gt;"}
)


class Struct(dict[str, Any]):
    """A Go struct: a field that it does not have is an error, where a map answers with nothing."""


class _Missing:
    """What a map answers for a key it does not have: prints as nothing, is false, equals only itself.

    So does each of its fields, as long as a template does not ask for `missingkey=error`, which KServe never does.
    """


MISSING = _Missing()


def render(text: str, data: Mapping[str, Any], *, html: bool) -> str:
    """The executed template. Raises TemplateError, also where it takes too many steps or makes too long a text."""
    try:
        run = _Run(data, html)
        run.walk(parse(text))
    except RecursionError:
        raise TemplateError("exceeded maximum template depth") from None
    return "".join(run.out)


class _Run:
    def __init__(self, data: Mapping[str, Any], html: bool) -> None:
        self._data = data
        self._html = html
        self._steps = 0
        self._length = 0
        self.out: list[str] = []

    def walk(self, nodes: tuple[Node, ...]) -> None:
        for node in nodes:
            match node:
                case str():
                    self._print(node)
                case Pipe():
                    self._print(self._shown(self._pipe(node)))
                case Branch(pipe, body, other):
                    self.walk(body if _is_true(self._pipe(pipe)) else other)

    def _spend(self, *worked_on: Any) -> None:
        sizes = (len(value) for value in worked_on if isinstance(value, str | Mapping | list))
        self._steps += 1 + sum(sizes) // _LENGTH_OF_A_STEP
        if self._steps > MAX_STEPS:
            raise TemplateError("the template takes too long")

    def _print(self, text: str) -> None:
        self._spend(text)
        self._length += len(text)
        if self._length > MAX_LENGTH:
            raise TemplateError("its text gets too long")
        self.out.append(text)

    def _shown(self, value: Any) -> str:
        if not self._html:
            return "<no value>" if value is MISSING else _sprint(value)
        return "" if value is MISSING or value is None else _sprint(value).translate(_HTML)

    def _pipe(self, pipe: Pipe) -> Any:
        value = self._command(pipe.commands[0], ())
        for command in pipe.commands[1:]:
            value = self._command(command, (Literal(value),))
        return value

    def _command(self, command: tuple[Operand, ...], piped: tuple[Operand, ...]) -> Any:
        self._spend()
        first, *rest = command
        if isinstance(first, Function):
            return self._function(first.name, [*rest, *piped])
        if rest or piped:
            raise TemplateError("can't give argument to non-function")
        return self._operand(first)

    def _function(self, name: str, operands: list[Operand]) -> Any:
        if name in ("and", "or"):
            return self._logic(name, operands)
        args = [self._operand(item) for item in operands]
        self._spend(*args)
        try:
            value = _BUILT_IN[name](*args)
        except (TypeError, ValueError) as error:
            raise TemplateError(f"error calling {name}: {error}") from None
        self._spend(value)
        return value

    def _logic(self, name: str, operands: list[Operand]) -> Any:
        if not operands:
            raise TemplateError(f"wrong number of args for {name}: want at least 1 got 0")
        for item in operands:
            value = self._operand(item)
            if _is_true(value) == (name == "or"):
                break
        return value

    def _operand(self, operand: Operand) -> Any:
        match operand:
            case Literal(value):
                return value
            case Function(name):
                return self._function(name, [])
            case Field(base, names):
                value = self._data if base is None else self._pipe(base)
                for name in names:
                    value = _field(value, name)
                return value


# ---------------------------------------------------------------- values


def _field(value: Any, name: str) -> Any:
    if isinstance(value, Struct):
        if name not in value:
            raise TemplateError(f"can't evaluate field {name} in type v1.ObjectMeta")
        return value[name]
    if isinstance(value, Mapping):
        return value.get(name, MISSING)
    if value is MISSING:
        return MISSING
    if value is None:
        raise TemplateError(f"nil pointer evaluating its field {name}")
    raise TemplateError(f"can't evaluate field {name} in type {type(value).__name__}")


def _is_true(value: Any) -> bool:
    return value is not MISSING and (isinstance(value, Struct) or bool(value))


def _sprint(value: Any) -> str:
    if value is None or value is MISSING:
        return "<nil>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Struct):
        return "{" + " ".join(_sprint(item) for item in value.values()) + "}"
    if isinstance(value, Mapping):
        return "map[" + " ".join(f"{key}:{_sprint(item)}" for key, item in sorted(value.items())) + "]"
    if isinstance(value, list):
        return "[" + " ".join(_sprint(item) for item in value) + "]"
    return str(value)


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if isinstance(value, Mapping) and not isinstance(value, Struct):
            if not isinstance(key, str):
                raise TypeError("value has type int; should be string")
            value = value.get(key, "")
        elif isinstance(value, list | str) and isinstance(key, int) and 0 <= key < len(value):
            value = ord(value[key]) if isinstance(value, str) else value[key]
        else:
            raise TypeError("can't index item")
    return value


def _len(value: Any) -> int:
    if value is None or value is MISSING or isinstance(value, Struct | int):
        raise TypeError("len of this type")
    return len(value.encode()) if isinstance(value, str) else len(value)


def _kind(value: Any) -> str:
    for kinds, name in ((bool, "bool"), (int, "int"), (str, "string")):
        if isinstance(value, kinds):
            return name
    return "missing" if value is MISSING or value is None else "other"


def _eq(first: Any, *others: Any) -> bool:
    if not others:
        raise TypeError("missing argument for comparison")
    for other in others:
        kinds = {_kind(first), _kind(other)}
        if "other" in kinds or (len(kinds) > 1 and "missing" not in kinds):
            raise TypeError("incompatible types for comparison")
        if len(kinds) == 1 and first == other:
            return True
    return False


# ---------------------------------------------------------------- printf

_VERB = re.compile(r"%([-+# 0]*)(\d*)(?:\.(\d*))?([a-zA-Z%])")


def _printf(*args: Any) -> str:
    if not args or not isinstance(args[0], str):
        raise TypeError("expected a format and its values")
    kept, length = [], 0
    for part in _formatted(args[0], args[1:]):
        kept.append(part)
        length += len(part)
        # Before it gets too long: a value may be named as often as a template has room.
        if length > MAX_LENGTH:
            raise ValueError("its text gets too long")
    return "".join(kept)


def _formatted(pattern: str, args: tuple[Any, ...]) -> Iterator[str]:
    values = iter(args)
    at = 0
    for match in _VERB.finditer(pattern):
        yield pattern[at : match.start()]
        at = match.end()
        yield _one_verb(match, values)
    yield pattern[at:]
    if left := list(values):
        yield "%!(EXTRA "
        for index, value in enumerate(left):
            yield f"{', ' * bool(index)}{_go_type(value)}={_sprint(value)}"
        yield ")"


def _one_verb(match: re.Match[str], values: Iterator[Any]) -> str:
    flags, width, precision, verb = match.groups()
    if verb == "%":
        return "%"
    if verb not in "svdqt" or set(flags) - {"-", "0"}:
        raise unsupported(f"printf's `{match[0][:20]}`")
    if max(int(width or 0), int(precision or 0)) > _WIDEST:
        raise ValueError("width or precision too large")
    try:
        value = next(values)
    except StopIteration:
        return f"%!{verb}(MISSING)"
    text = _verb(verb, value, precision)
    if "-" in flags:
        return text.ljust(int(width or 0))
    return text.zfill(int(width or 0)) if "0" in flags else text.rjust(int(width or 0))


def _verb(verb: str, value: Any, precision: str | None) -> str:
    if verb == "v" or (verb == "s" and isinstance(value, str | dict | list)):
        text = _sprint(value)
        return text[: int(precision)] if precision and verb == "s" else text
    if verb == "q" and isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if verb == "d" and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if verb == "t" and isinstance(value, bool):
        return _sprint(value)
    return f"%!{verb}({'<nil>' if value in (None, MISSING) else f'{_go_type(value)}={_sprint(value)}'})"


def _go_type(value: Any) -> str:
    return {bool: "bool", int: "int", str: "string", dict: "map[string]string"}.get(type(value), "<nil>")


def _html(*args: Any) -> str:
    if len(args) != 1:
        raise unsupported(f"`html` with {len(args)} operands")
    return _sprint(args[0])


def _not(*args: Any) -> bool:
    if len(args) != 1:
        raise TypeError(f"want 1 got {len(args)}")
    return not _is_true(args[0])


_BUILT_IN: dict[str, Callable[..., Any]] = {
    "index": _index,
    "printf": _printf,
    "len": _len,
    "html": _html,
    "eq": _eq,
    "ne": lambda first, second: not _eq(first, second),
    "not": _not,
}
