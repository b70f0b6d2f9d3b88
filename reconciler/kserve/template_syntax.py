"""Go's template language: text → tree. The subset that is used in containers and domain templates.

Fields, `index`, `if` and `else`, `printf`, `len`, `html`, `eq`, `ne`, `and`, `or`, `not`, pipes, comments, trim marks
and raw strings. What else Go knows is refused by its name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

FUNCTIONS = frozenset({"index", "printf", "len", "html", "eq", "ne", "and", "or", "not"})
_WORDS_OF_GO = "range with define block template break continue nil slice print println js urlquery call lt le gt ge"
_UNSUPPORTED = frozenset(_WORDS_OF_GO.split())
_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n]+)|(?P<raw>`[^`]*`)|(?P<string>"(?:[^"\\\n]|\\.)*")|(?P<char>'(?:[^'\\\n]|\\.)')
    |(?P<number>[+-]?\d[\w.]*)|(?P<field>\.[^\W\d]\w*)|(?P<variable>\$\w*)|(?P<word>[^\W\d]\w*)
    |(?P<sign>:=|[=|(),.])""",
    re.VERBOSE,
)
_CLOSE = re.compile(r"([ \t\r\n]-)?\}\}")
_COMMENT = re.compile(r"\s*/\*.*?\*/\s*?(\s-)?\}\}", re.DOTALL)
_NUMBER = re.compile(r"[+-]?(?:0|[1-9]\d{0,17})", re.ASCII)
_BLANK = " \t\r\n"
_MAX_DEPTH, _MAX_PARENS = 60, 50


class TemplateError(Exception):
    """The template cannot be parsed or executed."""


@dataclass(frozen=True, slots=True)
class Literal:
    value: Any


@dataclass(frozen=True, slots=True)
class Function:
    name: str


@dataclass(frozen=True, slots=True)
class Field:
    """The dot, or what is in parentheses, and the fields after it."""

    base: Pipe | None
    names: tuple[str, ...] = ()


Operand = Literal | Function | Field


@dataclass(frozen=True, slots=True)
class Pipe:
    """Commands, each of which gets the value of the one before as its last operand."""

    commands: tuple[tuple[Operand, ...], ...]


@dataclass(frozen=True, slots=True)
class Branch:
    """`if`."""

    pipe: Pipe
    body: tuple[Node, ...]
    other: tuple[Node, ...]


Node = str | Pipe | Branch
_Tokens = list[tuple[str, str]]


@lru_cache(256)
def parse(text: str) -> tuple[Node, ...]:
    """Raises TemplateError."""
    parser = _Blocks(_split(text))
    nodes, end = parser.block(0)
    if end:
        raise TemplateError(f"unexpected {{{{{end.text}}}}}")
    return nodes


def unsupported(what: str) -> TemplateError:
    return TemplateError(f"{what} of Go's templates is not supported here; write what it would print")


# ---------------------------------------------------------------- text → pieces and tokens


def _split(text: str) -> Iterator[str | _Tokens]:
    """Texts, and the tokens of actions."""
    at, trim = 0, False
    while True:
        start = text.find("{{", at)
        piece = text[at:start] if start >= 0 else text[at:]
        left = start >= 0 and re.match(r"\{\{-[ \t\r\n]", text[start : start + 4])
        piece = piece.lstrip(_BLANK) if trim else piece
        yield piece.rstrip(_BLANK) if left else piece
        if start < 0:
            return
        inside = start + (3 if left else 2)
        if comment := _COMMENT.match(text, inside):
            at, trim = comment.end(), bool(comment[1])
            continue
        tokens, at, trim = _lex(text, inside)
        yield tokens


def _lex(text: str, at: int) -> tuple[_Tokens, int, bool]:
    """The tokens up to the end of an action, where that is, and whether it trims the text behind."""
    tokens: _Tokens = []
    start = at
    while not (close := _CLOSE.match(text, at)):
        match = _TOKEN.match(text, at)
        if not match:
            if not text[at:]:
                raise TemplateError("unclosed action")
            # Go names the place: after an identifier of a command, or where a command should begin.
            before = text[start:at].rstrip()
            place = "operand" if before and before[-1] not in "|(" else "command"
            raise TemplateError(f'unexpected "{text[at]}" in {place}')
        tokens.append((match.lastgroup or "", match[0]))
        at = match.end()
    return tokens, close.end(), bool(close[1])


# ---------------------------------------------------------------- pieces → tree


class _Blocks:
    def __init__(self, pieces: Iterator[str | _Tokens]) -> None:
        self._pieces = pieces

    def block(self, depth: int) -> tuple[tuple[Node, ...], _Action | None]:
        """Nodes up to `end` or `else`, and that action."""
        if depth > _MAX_DEPTH:
            raise TemplateError("nested too deeply")
        nodes: list[Node] = []
        for piece in self._pieces:
            if isinstance(piece, str):
                nodes += [piece] if piece else []
                continue
            action = _Action(piece)
            if action.take("end", "else"):
                return tuple(nodes), action
            nodes.append(self._branch(action.pipeline(), depth) if action.take("if") else action.pipeline())
        return tuple(nodes), None

    def _branch(self, pipe: Pipe, depth: int) -> Branch:
        body, end = self.block(depth + 1)
        other: tuple[Node, ...] = ()
        if end and end.word == "else":
            if end.take("if"):
                return Branch(pipe, body, (self._branch(end.pipeline(), depth + 1),))
            end.finish()
            other, end = self.block(depth + 1)
        if not end or end.word != "end":
            raise TemplateError("missing {{end}} of {{if}}")
        end.finish()
        return Branch(pipe, body, other)


class _Action:
    """The tokens of one action."""

    def __init__(self, tokens: _Tokens) -> None:
        self._tokens = tokens
        self._at = 0
        self._depth = 0
        self.text = "".join(text for _, text in tokens).strip()
        self.word = ""
        self._skip()

    def _peek(self) -> tuple[str, str]:
        return self._tokens[self._at] if self._at < len(self._tokens) else ("end", "")

    def _skip(self) -> bool:
        start = self._at
        while self._peek()[0] == "space":
            self._at += 1
        return self._at > start

    def take(self, *words: str) -> bool:
        """Is one of these next? Then move past it."""
        kind, text = self._peek()
        if kind != "word" or text not in words:
            return False
        self.word = text
        self._at += 1
        self._skip()
        return True

    def finish(self) -> None:
        self._skip()
        if self._at < len(self._tokens):
            raise TemplateError(f"unexpected {self._peek()[1]!r}")

    def pipeline(self, closing: bool = False) -> Pipe:
        commands = [self._command()]
        while self._peek() == ("sign", "|"):
            self._at += 1
            commands.append(self._command())
        if not closing:
            self.finish()
        elif self._peek() != ("sign", ")"):
            raise TemplateError("unclosed left paren")
        else:
            self._at += 1
        if any(isinstance(command[0], Literal) for command in commands[1:]):
            raise TemplateError("non executable command in pipeline")
        return Pipe(tuple(commands))

    def _command(self) -> tuple[Operand, ...]:
        operands: list[Operand] = []
        spaced = self._skip()
        while self._peek() not in (("sign", "|"), ("sign", ")"), ("end", "")):
            if operands and not spaced:
                raise TemplateError(f"unexpected {self._peek()[1]!r}")
            operands.append(self._operand())
            spaced = self._skip()
        if not operands:
            raise TemplateError("missing value for command")
        return tuple(operands)

    def _operand(self) -> Operand:
        kind, text = self._peek()
        if kind == "field":
            return Field(None, self._fields())
        self._at += 1
        match kind, text:
            case "raw" | "string", _:
                return Literal(_unquote(kind, text))
            case "number", _ if _NUMBER.fullmatch(text):
                return Literal(int(text))
            case "word", "true" | "false":
                return Literal(text == "true")
            case "word", _ if text in FUNCTIONS:
                return Function(text)
            # Where nothing binds another value, the whole is what the dot is.
            case ("sign", ".") | ("variable", "$"):
                return Field(None, self._fields() if text == "$" else ())
            case "sign", "(":
                return Field(self._inner(), self._fields())
        raise _refused(kind, text)

    def _inner(self) -> Pipe:
        self._depth += 1
        if self._depth > _MAX_PARENS:
            raise TemplateError("max expression depth exceeded")
        pipe = self.pipeline(closing=True)
        self._depth -= 1
        return pipe

    def _fields(self) -> tuple[str, ...]:
        names = []
        while self._peek()[0] == "field":
            names.append(self._peek()[1][1:])
            self._at += 1
        return tuple(names)


def _refused(kind: str, text: str) -> TemplateError:
    if kind == "word" and text not in _UNSUPPORTED:
        return TemplateError(f'function "{text[:80]}" not defined')
    if kind == "word":
        return unsupported(f"`{text}`")
    names = {"variable": "a variable", "number": "a number such as", "char": "a character constant"}
    if kind in names:
        return unsupported(f"{names[kind]} {text[:80]}")
    return TemplateError(f"unexpected {text!r}")


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
