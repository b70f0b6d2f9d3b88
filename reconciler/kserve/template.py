"""Go's template language: tree → text, over plain data. `html` escapes every printed value as html/template does."""

from __future__ import annotations

import json
import re
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any

from reconciler.kserve.template_syntax import (
    Action,
    Branch,
    Call,
    Chain,
    Function,
    Jump,
    Literal,
    Pipe,
    Template,
    TemplateError,
    Text,
    Variable,
    parse,
)

_HTML = str.maketrans(
    {"\0": "\ufffd", '"': "&#34;", "&": "&amp;", "'": "&#39;", "+": "&#43;", "<": "&lt;", ">": "&gt;"}
)
_MAX_STEPS = 20_000
_MAX_LENGTH = 1 << 20


class Struct(dict[str, Any]):
    """A Go struct: a field that it does not have is an error, where a map answers with nothing."""


class _Missing:
    """What a map answers for a key it does not have: prints as nothing, is false, equals only itself."""


MISSING = _Missing()


class _Stop(Exception):
    """`break` or `continue`."""


def render(text: str, data: Mapping[str, Any], *, html: bool) -> str:
    """The executed template. Raises TemplateError."""
    template = parse(text)
    run = _Run(template, html)
    try:
        run.walk(template.nodes, data, {"$": data})
    except _Stop:
        raise TemplateError("break or continue outside range") from None
    except RecursionError:
        raise TemplateError("exceeded maximum template depth") from None
    return "".join(run.out)


class _Run:
    def __init__(self, template: Template, html: bool) -> None:
        self._template = template
        self._html = html
        self._steps = 0
        self._depth = 0
        self._length = 0
        self.out: list[str] = []

    def walk(self, nodes: tuple[Any, ...], dot: Any, scope: dict[str, Any]) -> None:
        for node in nodes:
            self._steps += 1
            if self._steps > _MAX_STEPS or self._length > _MAX_LENGTH:
                raise TemplateError("the template does not end")
            self._node(node, dot, scope)

    def _node(self, node: Any, dot: Any, scope: dict[str, Any]) -> None:
        match node:
            case Text(text):
                self._print(text)
            case Action(pipe):
                value = self._pipe(pipe, dot, scope)
                if not pipe.names:
                    self._print(self._shown(value))
            case Branch():
                self._branch(node, dot, dict(scope))
            case Call(name, pipe):
                self._call(name, self._pipe(pipe, dot, scope) if pipe else None)
            case Jump(word):
                raise _Stop(word)

    def _print(self, text: str) -> None:
        self._length += len(text)
        self.out.append(text)

    def _shown(self, value: Any) -> str:
        if not self._html:
            return "<no value>" if value is MISSING else _sprint(value)
        return "" if value is MISSING or value is None else _sprint(value).translate(_HTML)

    def _branch(self, node: Branch, dot: Any, scope: dict[str, Any]) -> None:
        if node.word == "range":
            self._range(node, dot, scope)
            return
        value = self._pipe(node.pipe, dot, scope)
        if _truth(value):
            self.walk(node.body, value if node.word == "with" else dot, scope)
        else:
            self.walk(node.other, dot, scope)

    def _range(self, node: Branch, dot: Any, scope: dict[str, Any]) -> None:
        value = self._pipe(Pipe(node.pipe.commands), dot, scope)
        pairs = _pairs(value)
        for key, item in pairs:
            inner = dict(scope)
            inner.update(zip(node.pipe.names, (item,) if len(node.pipe.names) == 1 else (key, item), strict=False))
            try:
                self.walk(node.body, item, inner)
            except _Stop as stop:
                if stop.args[0] == "break":
                    break
        if not pairs:
            self.walk(node.other, dot, scope)

    def _call(self, name: str, dot: Any) -> None:
        if name not in self._template.defined:
            raise TemplateError(f'template "{name}" not defined')
        self._depth += 1
        if self._depth > 100:
            raise TemplateError("exceeded maximum template depth")
        self.walk(self._template.defined[name], dot, {"$": dot})
        self._depth -= 1

    def _pipe(self, pipe: Pipe, dot: Any, scope: dict[str, Any]) -> Any:
        value: Any = None
        for index, command in enumerate(pipe.commands):
            value = self._command(command, dot, scope, () if index == 0 else (value,))
        for name in pipe.names:
            if pipe.assigns and name not in scope:
                raise TemplateError(f"undefined variable {name}")
            scope[name] = value
        return value

    def _command(self, command: tuple[Any, ...], dot: Any, scope: dict[str, Any], piped: tuple[Any, ...]) -> Any:
        first, *rest = command
        if isinstance(first, Function):
            return self._function(first.name, rest, dot, scope, piped)
        value = self._operand(first, dot, scope)
        if rest or piped:
            raise TemplateError("can't give argument to non-function")
        if isinstance(first, Literal) and first.value is None:
            raise TemplateError("nil is not a command")
        return value

    def _function(self, name: str, operands: list[Any], dot: Any, scope: dict[str, Any], piped: tuple[Any, ...]) -> Any:
        if name in ("and", "or"):
            values = [*operands, *(Literal(item) for item in piped)]
            if not values:
                raise TemplateError(f"wrong number of args for {name}: want at least 1 got 0")
            for item in values:
                value = self._operand(item, dot, scope)
                if _truth(value) == (name == "or"):
                    return value
            return value
        args = [self._operand(item, dot, scope) for item in operands]
        try:
            return _FUNCTIONS[name](*args, *piped)
        except (TypeError, ValueError, KeyError, IndexError, OverflowError) as error:
            raise TemplateError(f"error calling {name}: {error}") from None

    def _operand(self, operand: Any, dot: Any, scope: dict[str, Any]) -> Any:
        match operand:
            case Literal(value):
                return value
            case Function(name):
                return self._function(name, [], dot, scope, ())
            case Chain(base, fields):
                value = dot if base is None else self._operand(base, dot, scope)
                for name in fields:
                    value = _field(value, name)
                return value
            case Variable(name):
                if name not in scope:
                    raise TemplateError(f"undefined variable {name}")
                return scope[name]
            case Pipe():
                return self._pipe(operand, dot, dict(scope))
        raise TemplateError("unexpected operand")


def _field(value: Any, name: str) -> Any:
    if isinstance(value, Struct):
        if name not in value:
            raise TemplateError(f"can't evaluate field {name} in type v1.ObjectMeta")
        return value[name]
    if isinstance(value, Mapping):
        return value.get(name, MISSING)
    if value is MISSING or value is None:
        raise TemplateError(f"nil data; no entry for key {name}")
    raise TemplateError(f"can't evaluate field {name} in type {type(value).__name__}")


def _truth(value: Any) -> bool:
    return value is not MISSING and (isinstance(value, Struct) or bool(value))


def _pairs(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, Struct | str | float | bool):
        raise TemplateError("range can't iterate over this value")
    if isinstance(value, Mapping):
        return sorted(value.items())
    if isinstance(value, list):
        return list(enumerate(value))
    if isinstance(value, int):
        return [(index, index) for index in range(min(value, _MAX_STEPS))]
    return []


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
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


def _print(*args: Any) -> str:
    text = ""
    for index, item in enumerate(args):
        # Go puts a space between two operands when neither is a string.
        if index and not isinstance(item, str) and not isinstance(args[index - 1], str):
            text += " "
        text += _sprint(item)
    return text


_VERB = re.compile(r"%([-+# 0]*)(\d*)(?:\.(\d*))?([a-zA-Z%])")


def _printf(pattern: str, *args: Any) -> str:
    values = iter(args)

    def one(match: re.Match[str]) -> str:
        flags, width, precision, verb = match.groups()
        if verb == "%":
            return "%"
        if int(width or 0) > 1000:
            raise ValueError("width too large")
        try:
            value = next(values)
        except StopIteration:
            return f"%!{verb}(MISSING)"
        text = _verb(verb, value, precision)
        if "-" in flags:
            return text.ljust(int(width or 0))
        return text.zfill(int(width or 0)) if "0" in flags else text.rjust(int(width or 0))

    result = _VERB.sub(one, pattern)
    left = list(values)
    return result + ("%!(EXTRA " + ", ".join(f"{_go_type(v)}={_sprint(v)}" for v in left) + ")" if left else "")


def _go_type(value: Any) -> str:
    names = {bool: "bool", int: "int", float: "float64", str: "string", dict: "map[string]string"}
    return names.get(type(value), "<nil>")


def _verb(verb: str, value: Any, precision: str | None) -> str:
    if verb == "v" or (verb == "s" and isinstance(value, str | dict | list)):
        text = _sprint(value)
        return text[: int(precision)] if precision and verb == "s" else text
    if verb == "q" and isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if verb == "d" and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if verb in "xX" and isinstance(value, str | int):
        text = value.encode().hex() if isinstance(value, str) else f"{value:x}"
        return text.upper() if verb == "X" else text
    if verb == "t" and isinstance(value, bool):
        return _sprint(value)
    if verb in "feg" and isinstance(value, float):
        return f"{value:.{precision or 6}{verb}}"
    if verb == "T":
        return _go_type(value)
    return f"%!{verb}({'<nil>' if value in (None, MISSING) else f'{_go_type(value)}={_sprint(value)}'})"


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


def _slice(value: Any, *bounds: int) -> Any:
    start, end = (*bounds, *(0, len(value))[len(bounds) :])[:2] if len(bounds) < 2 else bounds[:2]
    if not 0 <= start <= end <= len(value):
        raise IndexError("index out of range")
    return value[start:end]


def _len(value: Any) -> int:
    if value is None or value is MISSING or isinstance(value, Struct):
        raise TypeError("len of this type")
    return len(value.encode()) if isinstance(value, str) else len(value)


def _kind(value: Any) -> str:
    for kinds, name in ((bool, "bool"), (int, "int"), (float, "float"), (str, "string")):
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


def _less(first: Any, second: Any) -> bool:
    if _kind(first) != _kind(second) or _kind(first) not in ("int", "float", "string"):
        raise TypeError("incompatible types for comparison")
    return bool(first < second)


def _one(*values: Any) -> Any:
    if len(values) != 1:
        raise TypeError(f"want 1 got {len(values)}")
    return values[0]


def _call_nothing(*_: Any) -> Any:
    raise TypeError("non-function of type string")


_JS = {
    "\\": "\\\\",
    "'": "\\'",
    '"': '\\"',
    "<": "\\u003C",
    ">": "\\u003E",
    "&": "\\u0026",
    "=": "\\u003D",
    "\n": "\\u000A",
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "not": lambda *values: not _truth(_one(*values)),
    "len": lambda *values: _len(_one(*values)),
    "index": _index,
    "slice": _slice,
    "print": _print,
    "println": lambda *values: " ".join(_sprint(item) for item in values) + "\n",
    "printf": _printf,
    "html": lambda *values: _print(*values),
    "js": lambda *values: "".join(_JS.get(char, char) for char in _print(*values)),
    "urlquery": lambda *values: urllib.parse.quote_plus(_print(*values), safe="~"),
    "call": _call_nothing,
    "eq": _eq,
    "ne": lambda first, second: not _eq(first, second),
    "lt": _less,
    "le": lambda first, second: _less(first, second) or _eq(first, second),
    "gt": lambda first, second: not _less(first, second) and not _eq(first, second),
    "ge": lambda first, second: not _less(first, second),
}
