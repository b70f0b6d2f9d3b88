"""Errors of a config file as its author needs them: file, line, key, and what was expected."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from reconciler.formats.spelling import nearest
from reconciler.formats.strict_yaml import FieldPath, Tree, find, line_at

_UNSAID = "Value error, "
# What tells targets of both kinds apart, in pydantic's places of problems.
HOST, CLUSTER = "[host]", "[cluster]"


def explain(path: Path, tree: Tree, problems: Iterable[Any], known: Sequence[str]) -> Iterator[str]:
    """One line for each of pydantic's `problems`; `known` are the names of all settings."""
    placed = [(each, _written(tree, each["loc"])) for each in problems]
    for each, place in placed:
        if each["type"] in ("too_short", "literal_error") and any(_is_below(other, place) for _, other in placed):
            # A list is called empty, or not `auto`, when its items are wrong; each of them is reported.
            continue
        yield problem_line(path, tree, place, _problem_text(each, known))


def problem_line(path: Path, tree: Tree, place: FieldPath, message: str) -> str:
    """One line about one place: file, line, key, and what is wrong."""
    line = line_at(find(tree.value, tree.lines, place)[1])
    return f"{path}:{line}: {_key(place) or 'the file'}: {message}"


def _written(tree: Tree, loc: FieldPath) -> FieldPath:
    """Where a problem of pydantic stands, without marks of its own: `[key]`, `tuple[str, ...]`, `literal['auto']`."""
    place: list[str | int] = []
    for part in loc:
        if "[" not in str(part) or part in _children(find(tree.value, tree.lines, tuple(place))[0]):
            place.append(part)
    return tuple(place)


def _children(value: Any) -> Iterable[Any]:
    return value if isinstance(value, dict) else ()


def _problem_text(problem: Any, known: Sequence[str]) -> str:
    given = problem["input"]
    match problem["type"]:
        case "extra_forbidden":
            near = nearest(str(problem["loc"][-1]), known)
            if near == problem["loc"][-1]:
                return "no such setting here, it belongs elsewhere; see deploy/CONFIGURATION.md"
            return "no such setting" + (f"; did you mean {near}?" if near else "; see deploy/CONFIGURATION.md")
        case "missing":
            return "is required"
        case "too_short":
            return "must not be empty"
        case "literal_error":
            return f'"{given}" is none of {problem["ctx"]["expected"]}'
        case "string_pattern_mismatch":
            return f'"{given}" does not have the form {problem["ctx"]["pattern"]}'
        case "dict_type" | "model_type":
            return "must be a mapping: KEY: VALUE"
        case "tuple_type":
            return "must be a list"
        case "string_type":
            return "must be text; put it in quotes"
        case _:
            return str(problem["msg"]).removeprefix(_UNSAID)


def _is_below(place: FieldPath, above: FieldPath) -> bool:
    return len(place) > len(above) and tuple(place[: len(above)]) == tuple(above)


def _key(place: FieldPath) -> str:
    """`targets[0].kind`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).removeprefix(".")
