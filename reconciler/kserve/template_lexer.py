"""Go's template language: text → pieces and tokens, and the operands and pipelines within one action."""

from __future__ import annotations

import math
import re
from typing import Any

from reconciler.kserve.template_nodes import Chain, Function, Literal, Pipe, TemplateError, Variable

FUNCTIONS = frozenset(
    [
        "and",
        "or",
        "not",
        "len",
        "index",
        "slice",
        "print",
        "printf",
        "println",
        "html",
        "js",
        "urlquery",
        "call",
        "eq",
        "ne",
        "lt",
        "le",
        "gt",
        "ge",
    ]
)
_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n]+)|(?P<raw>`[^`]*`)|(?P<string>"(?:[^"\\\n]|\\.)*")|(?P<char>'(?:[^'\\\n]|\\.)')
    |(?P<number>[+-]?\d[\w.]*)|(?P<field>\.[^\W\d]\w*)|(?P<variable>\$\w*)|(?P<word>[^\W\d]\w*)
    |(?P<sign>:=|[=|(),.])""",
    re.VERBOSE,
)
# Two names, a comma, the sign, and blanks between them.
_TOKENS_OF_A_DECLARATION = 8
_MAX_PARENS = 50
_KEYWORDS = frozenset(
    ["if", "else", "end", "with", "range", "define", "block", "template", "break", "continue", "nil", "true", "false"]
)


def split(text: str) -> Any:
    """Alternating pieces of text (str) and token lists of actions."""
    at, trim = 0, False
    while True:
        start = text.find("{{", at)
        piece = text[at:start] if start >= 0 else text[at:]
        left = start >= 0 and re.match(r"\{\{-[ \t\r\n]", text[start : start + 4])
        piece = piece.lstrip(" \t\r\n") if trim else piece
        yield piece.rstrip(" \t\r\n") if left else piece
        if start < 0:
            return
        inside = start + (3 if left else 2)
        comment = re.compile(r"\s*/\*.*?\*/\s*?(\s-)?\}\}", re.DOTALL).match(text, inside)
        if comment:
            at, trim = comment.end(), bool(comment[1])
            continue
        tokens, at, trim = lex(text, inside)
        yield tokens


def lex(text: str, at: int) -> tuple[list[tuple[str, str]], int, bool]:
    tokens: list[tuple[str, str]] = []
    start = at
    while True:
        if close := re.compile(r"([ \t\r\n]-)?\}\}").match(text, at):
            return tokens, close.end(), bool(close[1])
        match = _TOKEN.match(text, at)
        if not match:
            if not text[at:]:
                raise TemplateError("unclosed action")
            # Go names the place: behind a word of a command, or where a command should begin.
            before = text[start:at].rstrip()
            place = "operand" if before and before[-1] not in "|(" else "command"
            raise TemplateError(f'unexpected "{text[at]}" in {place}')
        tokens.append((match.lastgroup or "", match[0]))
        at = match.end()


class Tokens:
    """The tokens of one action."""

    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self._tokens = tokens
        self._at = 0
        self._depth = 0
        self._skip()

    def _peek(self) -> tuple[str, str]:
        return self._tokens[self._at] if self._at < len(self._tokens) else ("end", "")

    def _skip(self) -> bool:
        start = self._at
        while self._peek()[0] == "space":
            self._at += 1
        return self._at > start

    def done(self) -> bool:
        self._skip()
        return self._at >= len(self._tokens)

    def finish(self) -> None:
        if not self.done():
            raise TemplateError(f"unexpected {self._peek()[1]!r}")

    def keyword(self) -> str:
        kind, text = self._peek()
        if kind == "word" and text in _KEYWORDS - {"nil", "true", "false"}:
            self._at += 1
            self._skip()
            return text
        return ""

    def rest(self) -> str:
        return "".join(text for _, text in self._tokens[self._at :])

    def text(self) -> str:
        kind, text = self._peek()
        if kind not in ("raw", "string"):
            raise TemplateError("expected a name in quotes")
        self._at += 1
        self._skip()
        return _unquote(kind, text)

    def pipeline(self, closing: bool = False) -> Pipe:
        names, assigns = self._declaration()
        commands = [self._command()]
        while self._peek()[1] == "|":
            self._at += 1
            commands.append(self._command())
        if closing:
            if self._peek()[1] != ")":
                raise TemplateError("unclosed left paren")
            self._at += 1
        else:
            self.finish()
        if any(not isinstance(command[0], Function | Chain | Variable) for command in commands[1:]):
            raise TemplateError("non executable command in pipeline")
        return Pipe(tuple(commands), names, assigns)

    def _declaration(self) -> tuple[tuple[str, ...], bool]:
        ahead = "".join(text for _, text in self._tokens[self._at : self._at + _TOKENS_OF_A_DECLARATION])
        pattern = re.match(r"\s*(\$\w*)\s*(?:,\s*(\$\w+)\s*)?(:=|=)", ahead)
        if not pattern:
            return (), False
        while self._peek()[1] not in (":=", "="):
            self._at += 1
        self._at += 1
        return tuple(name for name in pattern.groups()[:2] if name), pattern[3] == "="

    def _command(self) -> tuple[Any, ...]:
        operands: list[Any] = []
        spaced = self._skip()
        while self._peek()[1] not in ("|", ")", "") or self._peek()[0] in ("raw", "string"):
            if operands and not spaced:
                raise TemplateError(f"unexpected {self._peek()[1]!r}")
            operands.append(self._operand())
            spaced = self._skip()
        if not operands:
            raise TemplateError("missing value for command")
        return tuple(operands)

    def _operand(self) -> Any:
        kind, text = self._peek()
        self._at += 1
        if kind in ("raw", "string", "char", "number"):
            return Literal(_literal(kind, text))
        if kind == "word":
            if text in ("true", "false", "nil"):
                return Literal({"true": True, "false": False, "nil": None}[text])
            if text not in FUNCTIONS:
                raise TemplateError(f'function "{text}" not defined')
            return Function(text)
        if kind == "variable":
            return self._fields(Variable(text))
        if kind == "field":
            self._at -= 1
            return self._fields(None)
        if text == "(":
            return self._fields(self._inner())
        if text == ".":
            return Chain(None)
        raise TemplateError(f"unexpected {text!r}")

    def _inner(self) -> Pipe:
        self._depth += 1
        if self._depth > _MAX_PARENS:
            raise TemplateError("max expression depth exceeded")
        pipe = self.pipeline(closing=True)
        self._depth -= 1
        return pipe

    def _fields(self, base: Any) -> Any:
        fields = []
        while self._peek()[0] == "field":
            fields.append(self._peek()[1][1:])
            self._at += 1
        return Chain(base, tuple(fields))


def _unquote(kind: str, text: str) -> str:
    if kind == "raw":
        return text[1:-1]
    try:
        value = text[1:-1].encode("latin-1", "backslashreplace").decode("unicode_escape")
    except UnicodeDecodeError as error:
        raise TemplateError(f"bad string {text[:80]}: {error.reason}") from None
    if any("\ud800" <= char <= "\udfff" for char in value):
        raise TemplateError(f"bad string {text[:80]}: half a surrogate pair is no character")
    return value


def _literal(kind: str, text: str) -> Any:
    if kind == "char":
        return ord(_unquote(kind, text))
    if kind != "number":
        return _unquote(kind, text)
    try:
        value = int(text, 0) if re.fullmatch(r"[+-]?(0[xXoObB]?[\da-fA-F]+|\d+)", text) else float(text)
    except ValueError:
        raise TemplateError(f"bad number syntax: {text[:80]!r}") from None
    if isinstance(value, float) and math.isinf(value):
        raise TemplateError(f"bad number syntax: {text[:80]!r}")
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
        raise TemplateError(f"integer overflow: {text[:80]!r}")
    return value
