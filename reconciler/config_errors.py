"""What is wrong with a config file, in the words of whoever wrote it: file, line, key, and what was expected."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

# A place in the config: names of keys, and numbers of items.
Place = Sequence[str | int]
_UNSAID = "Value error, "


def explain(path: Path, problems: Iterable[Any], known: Sequence[str]) -> Iterator[str]:
    """One line for each of pydantic's `problems`; `known` are the names of all settings."""
    problems = list(problems)
    root = _read(path)
    for each in problems:
        # Pydantic puts marks of its own among the keys: `[key]`, `tuple[str, ...]`.
        place = tuple(part for part in each["loc"] if "[" not in str(part))
        if each["type"] == "too_short" and any(_is_below(other["loc"], place) for other in problems):
            # A list is called empty when all of its items are wrong; each of them is told.
            continue
        yield f"{path}:{_line(root, place)}: {_key(place) or 'the file'}: {_words(each, known)}"


def _words(problem: Any, known: Sequence[str]) -> str:
    given = problem["input"]
    match problem["type"]:
        case "extra_forbidden":
            near = difflib.get_close_matches(str(problem["loc"][-1]), known, 1, 0.7)
            return "no such setting" + (f"; did you mean {near[0]}?" if near else "; see Configuration in the README")
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


def _is_below(place: Place, above: Place) -> bool:
    return len(place) > len(above) and tuple(place[: len(above)]) == tuple(above)


def _key(place: Place) -> str:
    """`targets[0].kind`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).removeprefix(".")


def _read(path: Path) -> yaml.Node | None:
    return yaml.compose(path.read_bytes(), Loader=yaml.SafeLoader)


def _line(node: yaml.Node | None, place: Place) -> int:
    """The line of a place, or of what is nearest above it where it is not there."""
    line = 1
    for part in place:
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == str(part)), None)
            if found is None:
                break
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line
