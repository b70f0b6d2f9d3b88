"""Go's template language: tree → text, over plain data. `html` escapes every printed value as html/template does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reconciler.kserve.template_nodes import (
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
)
from reconciler.kserve.template_syntax import parse
from reconciler.kserve.template_values import (
    BUILT_IN,
    MAX_LENGTH,
    MAX_STEPS,
    MISSING,
    Struct,
    field_of,
    is_true,
    pairs_of,
    size_of,
    sprint,
)

__all__ = ["Struct", "TemplateError", "render"]

_HTML = str.maketrans(
    {"\0": "\ufffd", '"': "&#34;", "&": "&amp;", "'": "&#39;", "+": "&#43;", "<": "&lt;", ">": "&gt;"}
)
# So much of a value costs one step: what is worked on counts as well as how often.
_LENGTH_OF_A_STEP = 256


class _Stop(Exception):
    """`break` or `continue`."""


def render(text: str, data: Mapping[str, Any], *, html: bool) -> str:
    """The executed template. Raises TemplateError, also where it takes too many steps or makes too long a text."""
    try:
        template = parse(text)
        run = _Run(template, html)
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
            self._spend()
            self._node(node, dot, scope)

    def _spend(self, *worked_on: Any) -> None:
        self._steps += 1 + sum(map(size_of, worked_on)) // _LENGTH_OF_A_STEP
        if self._steps > MAX_STEPS:
            raise TemplateError("the template takes too long")

    def _node(self, node: Any, dot: Any, scope: dict[str, Any]) -> None:
        match node:
            case Text(text):
                self._print(text)
            case Action(pipe):
                value = self._pipe(pipe, dot, scope)
                if not pipe.names:
                    self._print(self._shown(value))
            case Branch():
                self._spend(scope)
                self._branch(node, dot, dict(scope))
            case Call(name, pipe):
                self._call(name, self._pipe(pipe, dot, scope) if pipe else None)
            case Jump(word):
                raise _Stop(word)

    def _print(self, text: str) -> None:
        self._spend(text)
        self._length += len(text)
        if self._length > MAX_LENGTH:
            raise TemplateError("its text gets too long")
        self.out.append(text)

    def _shown(self, value: Any) -> str:
        if not self._html:
            return "<no value>" if value is MISSING else sprint(value)
        return "" if value is MISSING or value is None else sprint(value).translate(_HTML)

    def _branch(self, node: Branch, dot: Any, scope: dict[str, Any]) -> None:
        if node.word == "range":
            self._range(node, dot, scope)
            return
        value = self._pipe(node.pipe, dot, scope)
        if is_true(value):
            self.walk(node.body, value if node.word == "with" else dot, scope)
        else:
            self.walk(node.other, dot, scope)

    def _range(self, node: Branch, dot: Any, scope: dict[str, Any]) -> None:
        value = self._pipe(Pipe(node.pipe.commands), dot, scope)
        pairs = pairs_of(value)
        for key, item in pairs:
            self._spend(scope)
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
        self._spend()
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
                if is_true(value) == (name == "or"):
                    return value
            return value
        args = [*(self._operand(item, dot, scope) for item in operands), *piped]
        self._spend(*args)
        try:
            value = BUILT_IN[name](*args)
        except (TypeError, ValueError, KeyError, IndexError, OverflowError) as error:
            raise TemplateError(f"error calling {name}: {error}") from None
        self._spend(value)
        return value

    def _operand(self, operand: Any, dot: Any, scope: dict[str, Any]) -> Any:
        match operand:
            case Literal(value):
                return value
            case Function(name):
                return self._function(name, [], dot, scope, ())
            case Chain(base, fields):
                value = dot if base is None else self._operand(base, dot, scope)
                for name in fields:
                    value = field_of(value, name)
                return value
            case Variable(name):
                if name not in scope:
                    raise TemplateError(f"undefined variable {name}")
                return scope[name]
            case Pipe():
                self._spend(scope)
                return self._pipe(operand, dot, dict(scope))
        raise TemplateError("unexpected operand")
