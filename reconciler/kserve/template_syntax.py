"""Go's template language: text → tree. As much of it as stands in container fields and domain templates."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from reconciler.kserve.template_lexer import Tokens, lex, split
from reconciler.kserve.template_nodes import Action, Branch, Call, Jump, Pipe, Template, TemplateError, Text

_MAX_DEPTH = 60


@lru_cache(256)
def parse(text: str) -> Template:
    """Raises TemplateError."""
    parser = _Parser(list(split(text)))
    nodes, end = parser.block(0)
    if end:
        raise TemplateError(f"unexpected {{{{{end}}}}}")
    return Template(nodes, parser.defined)


class _Parser:
    def __init__(self, pieces: list[Any]) -> None:
        self._pieces = pieces
        self._at = 0
        self.defined: dict[str, tuple[Any, ...]] = {}

    def block(self, depth: int, loops: int = 0) -> tuple[tuple[Any, ...], str]:
        """Nodes up to `end` or `else`, and that word with what follows it."""
        if depth > _MAX_DEPTH:
            raise TemplateError("nested too deeply")
        nodes: list[Any] = []
        while self._at < len(self._pieces):
            piece = self._pieces[self._at]
            self._at += 1
            if isinstance(piece, str):
                if piece:
                    nodes.append(Text(piece))
                continue
            tokens = Tokens(piece)
            word = tokens.keyword()
            if word in ("end", "else"):
                rest = tokens.rest()
                return tuple(nodes), f"{word} {rest}".strip() if rest else word
            if node := self._action(word, tokens, depth, loops):
                nodes.append(node)
        return tuple(nodes), ""

    def _action(self, word: str, tokens: Tokens, depth: int, loops: int) -> Any:
        if word in ("if", "with", "range"):
            return self._branch(word, tokens.pipeline(), depth, loops + (word == "range"))
        if word in ("define", "block"):
            return self._define(word, tokens, depth)
        if word == "template":
            name = tokens.text()
            return Call(name, None if tokens.done() else tokens.pipeline())
        if word in ("break", "continue"):
            tokens.finish()
            if not loops:
                raise TemplateError(f"{{{{{word}}}}} outside {{{{range}}}}")
            return Jump(word)
        return Action(tokens.pipeline())

    def _branch(self, word: str, pipe: Pipe, depth: int, loops: int) -> Branch:
        body, end = self.block(depth + 1, loops)
        other: tuple[Any, ...] = ()
        if end.startswith("else"):
            again = end.removeprefix("else").strip()
            if again:
                nested, _, _ = again.partition(" ")
                if nested != word or word == "range":
                    raise TemplateError(f"unexpected {{{{{end}}}}}")
                tokens, _, _ = lex(again.removeprefix(nested) + "}}", 0)
                return Branch(word, pipe, body, (self._branch(word, Tokens(tokens).pipeline(), depth + 1, loops),))
            other, end = self.block(depth + 1, loops)
        if end != "end":
            raise TemplateError(f"missing {{{{end}}}} of {{{{{word}}}}}")
        return Branch(word, pipe, body, other)

    def _define(self, word: str, tokens: Tokens, depth: int) -> Call | None:
        name = tokens.text()
        pipe = tokens.pipeline() if word == "block" else None
        tokens.finish()
        body, end = self.block(depth + 1)
        if end != "end" or (word == "define" and depth):
            raise TemplateError(f"unexpected {{{{{word}}}}}")
        self.defined[name] = body
        return Call(name, pipe) if word == "block" else None
