"""Values in Go's templates: fields, truth, printing, and the built-in functions."""

from __future__ import annotations

import json
import re
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from reconciler.kserve.template_nodes import TemplateError

MAX_STEPS = 20_000
MAX_LENGTH = 1 << 20
# Of a number in printf: of columns, or of digits behind the point.
_WIDEST = 1000


class Struct(dict[str, Any]):
    """A Go struct: a field that it does not have is an error, where a map answers with nothing."""


class _Missing:
    """What a map answers for a key it does not have: prints as nothing, is false, equals only itself.

    So does each of its fields, as long as a template does not ask for `missingkey=error`, which KServe never does.
    """


MISSING = _Missing()


def field_of(value: Any, name: str) -> Any:
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


def is_true(value: Any) -> bool:
    return value is not MISSING and (isinstance(value, Struct) or bool(value))


def pairs_of(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, Struct | str | float | bool):
        raise TemplateError("range can't iterate over this value")
    if isinstance(value, Mapping):
        return sorted(value.items())
    if isinstance(value, list):
        return list(enumerate(value))
    if isinstance(value, int):
        return [(index, index) for index in range(min(value, MAX_STEPS))]
    return []


def size_of(value: Any) -> int:
    """How much there is to work on."""
    return len(value) if isinstance(value, str | Mapping | list) else 0


def _join(parts: Iterable[str], between: str = "") -> str:
    """One text. Raises ValueError before it gets too long: a value may be named as often as a template has room."""
    kept, length = [], 0
    for part in parts:
        kept.append(part)
        length += len(part) + len(between)
        if length > MAX_LENGTH:
            raise ValueError("its text gets too long")
    return between.join(kept)


def sprint(value: Any) -> str:
    if value is None or value is MISSING:
        return "<nil>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Struct):
        return "{" + " ".join(sprint(item) for item in value.values()) + "}"
    if isinstance(value, Mapping):
        return "map[" + " ".join(f"{key}:{sprint(item)}" for key, item in sorted(value.items())) + "]"
    if isinstance(value, list):
        return "[" + " ".join(sprint(item) for item in value) + "]"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


def _print(*args: Any) -> str:
    return _join(_printed(args))


def _printed(args: tuple[Any, ...]) -> Iterator[str]:
    for index, item in enumerate(args):
        # Go puts a space between two operands when neither is a string.
        if index and not isinstance(item, str) and not isinstance(args[index - 1], str):
            yield " "
        yield sprint(item)


_VERB = re.compile(r"%([-+# 0]*)(\d*)(?:\.(\d*))?([a-zA-Z%])")


def _printf(pattern: str, *args: Any) -> str:
    return _join(_formatted(pattern, args))


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
        yield _join((f"{_go_type(value)}={sprint(value)}" for value in left), ", ")
        yield ")"


def _one_verb(match: re.Match[str], values: Iterator[Any]) -> str:
    flags, width, precision, verb = match.groups()
    if verb == "%":
        return "%"
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


def _go_type(value: Any) -> str:
    names = {bool: "bool", int: "int", float: "float64", str: "string", dict: "map[string]string"}
    return names.get(type(value), "<nil>")


def _verb(verb: str, value: Any, precision: str | None) -> str:
    if verb == "v" or (verb == "s" and isinstance(value, str | dict | list)):
        text = sprint(value)
        return text[: int(precision)] if precision and verb == "s" else text
    if verb == "q" and isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if verb == "d" and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if verb in "xX" and isinstance(value, str | int):
        text = value.encode().hex() if isinstance(value, str) else f"{value:x}"
        return text.upper() if verb == "X" else text
    if verb == "t" and isinstance(value, bool):
        return sprint(value)
    if verb in "feg" and isinstance(value, float):
        return f"{value:.{precision or 6}{verb}}"
    if verb == "T":
        return _go_type(value)
    return f"%!{verb}({'<nil>' if value in (None, MISSING) else f'{_go_type(value)}={sprint(value)}'})"


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
BUILT_IN: dict[str, Callable[..., Any]] = {
    "not": lambda *values: not is_true(_one(*values)),
    "len": lambda *values: _len(_one(*values)),
    "index": _index,
    "slice": _slice,
    "print": _print,
    "println": lambda *values: _join((sprint(item) for item in values), " ") + "\n",
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
