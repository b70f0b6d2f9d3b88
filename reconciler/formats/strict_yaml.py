"""Bytes → plain trees that know their lines: YAML as kubectl reads it, safe for untrusted input.

Scalars follow kubectl (`no` is false, `012` is ten, `1:30` and dates are text). Refused: duplicate keys, tags beyond
YAML's core, nesting deeper than `MAX_DEPTH`, aliases that expand to absurd sizes, anything that is not UTF-8 text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias, cast

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from reconciler.model import ReasonCode

MAX_DEPTH = 100
MAX_ALIASES = 50
MAX_NODES = 100_000
_MANY = 32
# Of the documents of one file together, beyond one value for each byte.
MAX_EXPANDED = 100_000

# The line of a leaf, or the line of a container and what stands in it, in the container's own order.
Lines: TypeAlias = "int | tuple[int, tuple[Lines, ...]]"


FieldPath: TypeAlias = tuple[str | int, ...]


class _Many(tuple["Lines", ...]):
    """What stands in a mapping with so many keys that each is looked up: to count would take its square."""

    places: dict[str | int, int]

    @classmethod
    def of(cls, lines: list[Lines], keys: Iterable[str]) -> tuple[Lines, ...]:
        if len(lines) < _MANY:
            return tuple(lines)
        made = cls(lines)
        made.places = {key: index for index, key in enumerate(keys)}
        return made


class YamlProblem(Exception):
    """A text that we do not take. `line` counts from 1."""

    def __init__(self, line: int, message: str, code: ReasonCode = ReasonCode.INVALID_YAML) -> None:
        super().__init__(message)
        self.line = line
        self.message = message
        self.code = code


@dataclass(frozen=True, slots=True)
class Tree:
    """One document.

    `surprises` are unquoted values that YAML does not read as text: line, value, and what it became.
    """

    value: Any
    lines: Lines
    surprises: tuple[tuple[int, str, Any], ...] = ()


def find(value: Any, lines: Lines, path: FieldPath) -> tuple[Any, Lines]:
    """Value and lines of a field, or of the nearest one around it."""
    for step in path:
        if not isinstance(lines, tuple) or (index := _position(value, lines[1], step)) is None:
            break
        value, lines = value[step], lines[1][index]
    return value, lines


def line_at(lines: Lines) -> int:
    """The line where a value, or the key in front of it, begins."""
    return lines[0] if isinstance(lines, tuple) else lines


def _position(value: Any, children: tuple[Lines, ...], step: str | int) -> int | None:
    if isinstance(value, dict) and step in value:
        return children.places[step] if isinstance(children, _Many) else list(value).index(step)
    if isinstance(value, list) and isinstance(step, int) and 0 <= step < len(value):
        return step
    return None


def check_text(data: bytes) -> bytes:
    """The bytes without a byte order mark. Raises YamlProblem for what is not UTF-8 text."""
    if (zero := data.find(b"\0")) >= 0:
        raise YamlProblem(
            _line_at(data, zero), "holds a zero byte: this is a binary file, or UTF-16 text", ReasonCode.NOT_TEXT
        )
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise YamlProblem(
            _line_at(data, error.start), "is not UTF-8 text; save it as UTF-8", ReasonCode.NOT_TEXT
        ) from None
    return data.removeprefix(b"\xef\xbb\xbf")


_BOUNDARY = re.compile(rb"^(?:---|\.\.\.)(?=[ \t\r\n]|\Z)", re.MULTILINE)


def split_documents(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The documents of a stream with their first line, cut as YAML cuts them: one that is broken spoils no other."""
    start, line = 0, 1
    for match in _BOUNDARY.finditer(data):
        chunk = data[start : match.start()]
        if _is_directives(chunk):
            continue  # `%YAML 1.2` belongs to the document that follows it
        yield line, chunk
        line += chunk.count(b"\n")
        start = match.start() if match[0] == b"---" else match.end()
    yield line, data[start:]


def _is_directives(chunk: bytes) -> bool:
    lines = chunk.split(b"\n") if chunk.lstrip()[:1] in (b"%", b"#") else []
    return any(line[:1] == b"%" for line in lines) and all(line.strip()[:1] in (b"", b"%", b"#") for line in lines)


class Budget:
    """How many values the documents of one text may have together: one per byte, and some more by aliases."""

    def __init__(self, size: int) -> None:
        self.left = size + MAX_EXPANDED

    @property
    def expanded(self) -> int:
        """Values beyond what the bytes themselves can hold: what aliases made."""
        return max(0, MAX_EXPANDED - self.left)


def load(text: bytes, first_line: int = 1, budget: Budget | None = None) -> Tree | None:
    """One document, or None where there is none; what it holds is taken from the budget. Raises YamlProblem."""
    try:
        node = _compose(text, first_line)
    except yaml.MarkedYAMLError as error:
        _check_depth_before(error, text, first_line)
        raise _explained(error, text, first_line) from None
    except yaml.reader.ReaderError as error:
        line = _line_at(text, cast(int, error.position)) + first_line - 1
        raise YamlProblem(
            line, f"holds a character that YAML does not allow ({error.reason})", ReasonCode.NOT_TEXT
        ) from None
    if node is None:
        return None
    budget = budget or Budget(len(text))
    builder = _TreeBuilder(first_line, budget.left)
    try:
        value, lines = builder.build(node, 0)
    finally:
        budget.left -= builder.nodes
    return Tree(value, lines, tuple(builder.surprises))


def load_one(data: bytes) -> Tree:
    """The one document of a file; of an empty file, None as its value. Raises YamlProblem."""
    found = [tree for line, text in split_documents(check_text(data)) if (tree := load(text, line))]
    if len(found) > 1:
        raise YamlProblem(line_at(found[1].lines), "a second document begins here; there may be one")
    return found[0] if found else Tree(None, 1)


class _Composer(yaml.CSafeLoader):
    """libyaml's composer that leaves every implicit tag open and counts depth while it descends."""

    depth = 0
    first_line = 1

    def descend_resolver(self, current_node: Node | None, current_index: Any) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            line = current_node.start_mark.line + self.first_line if current_node else self.first_line
            raise YamlProblem(line, _TOO_DEEP, ReasonCode.TOO_DEEP)

    def ascend_resolver(self) -> None:
        self.depth -= 1

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        return None


_TOO_DEEP = f"nested deeper than {MAX_DEPTH} levels"


def _compose(text: bytes, first_line: int) -> Node | None:
    loader = _Composer(text)
    loader.first_line = first_line
    try:
        node = loader.get_single_node()
    finally:
        loader.dispose()
    # Only now: what composed is known to be shallow, so that counting cannot be made slow.
    if text.count(b"*") > MAX_ALIASES:
        _count_aliases(text, first_line)
    return node


def _check_depth_before(error: yaml.MarkedYAMLError, text: bytes, first_line: int) -> None:
    """Raises YamlProblem if the text was too deep for us before libyaml refused it.

    libyaml reads ahead and has a limit of its own in some versions, so its error may come before this one.
    """
    if error.problem_mark:
        with suppress(yaml.YAMLError):
            _compose(text.decode()[: error.problem_mark.index].encode(), first_line)


def _count_aliases(text: bytes, first_line: int) -> None:
    aliases = [event for event in yaml.parse(text, Loader=yaml.CSafeLoader) if isinstance(event, yaml.AliasEvent)]
    if len(aliases) > MAX_ALIASES:
        line = cast(yaml.Mark, aliases[MAX_ALIASES].start_mark).line + first_line
        raise YamlProblem(
            line, f"more than {MAX_ALIASES} aliases in one document; write the values out", ReasonCode.TOO_MANY_ALIASES
        )


def _explained(error: yaml.MarkedYAMLError, text: bytes, first_line: int) -> YamlProblem:
    mark = error.problem_mark or error.context_mark
    line = min(mark.line if mark else 0, text.rstrip().count(b"\n")) + first_line
    problem = error.problem or "cannot be read"
    if _has_tab(text, line - first_line):
        return YamlProblem(line, "a tab where YAML expects spaces")
    if error.context and error.context_mark and problem.endswith("end of stream"):
        begun = error.context_mark.line + first_line
        return YamlProblem(begun, f"is not YAML: the document ends {error.context} that begins here")
    if error.context and error.context_mark and error.context_mark.line + first_line != line:
        problem += f" ({error.context} that begins in line {error.context_mark.line + first_line})"
    return YamlProblem(line, f"is not YAML: {problem}")


def _has_tab(text: bytes, index: int) -> bool:
    """Whether the line, or the one before it (where libyaml puts some of these errors), is indented by a tab."""
    lines = text.split(b"\n", index + 1)[max(0, index - 1) : index + 1]
    return any(b"\t" in line[: len(line) - len(line.lstrip())] for line in lines)


def _line_at(data: bytes, position: int) -> int:
    return data.count(b"\n", 0, position) + 1


# ---------------------------------------------------------------- nodes → values

_CORE = "tag:yaml.org,2002:"
_MERGE = object()


class _TreeBuilder:
    """Builds one document's values and lines; counts nodes, so that aliases cannot grow without end."""

    def __init__(self, first_line: int, left: int) -> None:
        self.first_line = first_line
        self.nodes = 0
        self.most = min(MAX_NODES, left)
        self.surprises: list[tuple[int, str, Any]] = []

    def build(self, node: Node, depth: int, line: int = 0) -> tuple[Any, Lines]:
        """The value, and its lines; `line` is that of the key in front of it, where there is one."""
        line = line or self._line(node)
        self.nodes += 1
        if self.nodes > self.most:
            raise self._too_many(line)
        if isinstance(node, ScalarNode):
            return self._scalar(node), line
        if depth >= MAX_DEPTH:
            raise YamlProblem(line, f"{_TOO_DEEP}; does an alias hold itself?", ReasonCode.TOO_DEEP)
        if isinstance(node, SequenceNode):
            self._expect(node, "seq")
            built = [self.build(child, depth + 1) for child in node.value]
            return [value for value, _ in built], (line, tuple(lines for _, lines in built))
        self._expect(node, "map")
        return self._mapping(cast(MappingNode, node), depth, line)

    def _too_many(self, line: int) -> YamlProblem:
        if self.nodes > MAX_NODES:
            return YamlProblem(line, f"more than {MAX_NODES} values in one document", ReasonCode.TOO_MANY_VALUES)
        text = "the aliases of this file expand to too many values; write the values out, or split the file"
        return YamlProblem(line, text, ReasonCode.TOO_MANY_VALUES)

    def _mapping(self, node: MappingNode, depth: int, line: int) -> tuple[dict[str, Any], Lines]:
        built: dict[str, Any] = {}
        lines: list[Lines] = []
        first_seen: dict[str, int] = {}
        merged: list[tuple[dict[str, Any], Lines]] = []
        for key_node, value_node in node.value:
            key, key_line = self._key(key_node), self._line(key_node)
            if key is _MERGE:
                merged += self._merged(value_node, depth + 1, key_line)
                continue
            if key in built:
                message = f'key "{key}" is written twice; the first is in line {first_seen[key]}'
                raise YamlProblem(key_line, message, ReasonCode.DUPLICATE_KEY)
            first_seen[key] = key_line
            built[key], child = self.build(value_node, depth + 1, key_line)
            lines.append(child)
        for mapping, (_, children) in cast("list[tuple[dict[str, Any], tuple[int, tuple[Lines, ...]]]]", merged):
            for key, child in zip(mapping, children, strict=True):
                if key not in built:
                    built[key] = mapping[key]
                    lines.append(child)
        return built, (line, _Many.of(lines, built))

    def _merged(self, node: Node, depth: int, line: int) -> list[tuple[dict[str, Any], Lines]]:
        """What `<<:` brings: one mapping, or a list of them, the first of which wins."""
        nodes = node.value if isinstance(node, SequenceNode) else [node]
        if not all(isinstance(each, MappingNode) for each in nodes):
            raise YamlProblem(line, "<<: takes a mapping, or a list of mappings")
        return [self.build(each, depth, line) for each in nodes]

    def _key(self, node: Node) -> Any:
        if not isinstance(node, ScalarNode):
            raise YamlProblem(self._line(node), "a mapping or list cannot be a key")
        if node.value == "<<" and node.tag is None and not node.style:
            return _MERGE
        key = self._scalar(node)
        if isinstance(key, str):
            return key
        if key is None:
            raise YamlProblem(self._line(node), "an empty key")
        return str(key).lower() if isinstance(key, bool) else str(key)

    def _scalar(self, node: ScalarNode) -> Any:
        if node.tag is None and node.style:
            return node.value
        value = read_plain(node.value) if node.tag is None else self._tagged(node)
        if value is None or isinstance(value, str):
            return value
        if isinstance(value, float) and not math.isfinite(value):
            raise YamlProblem(self._line(node), f"{node.value} is not a number that Kubernetes can hold")
        if _SURPRISING.fullmatch(node.value):
            self.surprises.append((self._line(node), node.value, value))
        return value

    def _tagged(self, node: ScalarNode) -> Any:
        tag = node.tag.removeprefix(_CORE)
        if tag == "str":
            return node.value
        value = read_plain(node.value)
        expected = {"int": int, "float": int | float, "bool": bool, "null": type(None)}.get(tag)
        if expected is None or not isinstance(value, expected) or (tag != "bool" and isinstance(value, bool)):
            raise YamlProblem(
                self._line(node), f"the tag {_shown(node.tag)} is not allowed here", ReasonCode.UNKNOWN_TAG
            )
        return value

    def _expect(self, node: Node, kind: str) -> None:
        if node.tag is not None and node.tag != _CORE + kind:
            raise YamlProblem(
                self._line(node), f"the tag {_shown(node.tag)} is not allowed here", ReasonCode.UNKNOWN_TAG
            )

    def _line(self, node: Node) -> int:
        return cast(int, node.start_mark.line) + self.first_line


def _shown(tag: str) -> str:
    return "!!" + tag.removeprefix(_CORE) if tag.startswith(_CORE) else tag


_TRUE = ("y", "Y", "yes", "Yes", "YES", "on", "On", "ON", "true", "True", "TRUE")
_FALSE = ("n", "N", "no", "No", "NO", "off", "Off", "OFF", "false", "False", "FALSE")
_WORDS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(_TRUE, True),
    **dict.fromkeys(_FALSE, False),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
}
_INTEGER = re.compile(r"[-+]?(?:0[xX][0-9a-fA-F]+|0[bB][01]+|0[oO]?[0-7]+|0|[1-9][0-9]*)", re.ASCII)
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", re.ASCII)
# Values that people write as text and kubectl reads as something else.
_SURPRISING = re.compile(r"[yYnN]|yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF|[-+]?0[0-9_]+", re.ASCII)


@lru_cache(maxsize=4096)
def read_plain(text: str) -> Any:
    """An unquoted scalar as kubectl takes it: None, bool, int, float or the text itself."""
    if text in _WORDS:
        return _WORDS[text]
    if len(text) > 64 or text[0] not in "+-.0123456789":
        return text
    digits = text.replace("_", "")
    if _INTEGER.fullmatch(digits):
        return _integer(digits)
    if not _FLOAT.fullmatch(digits):
        return text
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        return text
    # JSON has no float of its own: 1e3 and 2.0 are the integers that Kubernetes wants in many fields.
    return int(number) if number.is_integer() and abs(number) < 1e21 else number


def _integer(digits: str) -> int | float:
    sign, digits = (-1, digits[1:]) if digits[0] == "-" else (1, digits.removeprefix("+"))
    if digits[:2].lower() in ("0x", "0b", "0o"):
        value = int(digits, 0)
    else:
        value = int(digits, 8 if len(digits) > 1 and digits[0] == "0" else 10)
    # Beyond 64 bits kubectl falls back to a float.
    return sign * value if value < 1 << 64 else float(sign * value)
