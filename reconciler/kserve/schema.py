"""The fields that KServe's API knows, the shapes of their values, and the strict checks of an API server. Pure.

`read` does what happens to a document on its way into a cluster: unknown and ill-typed fields are refused with the API
server's messages, empty fields vanish, defaults are filled in, quantities get their normal form. What it returns holds
only what its schema allows, so everything after it can trust the types.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from reconciler.formats.spelling import nearest
from reconciler.kserve.quantity import canonical, is_quantity

Path = tuple[Any, ...]
# Numbers and booleans that Go leaves out when they are zero, so that zero means unset.
_ZERO_IS_UNSET = frozenset(
    """failureThreshold hostIPC hostNetwork hostPID hostPort initialDelaySeconds maxReplicas periodSeconds readOnly
    stdin stdinOnce tty successThreshold timeoutSeconds""".split()  # noqa: SIM905
)
_MISSING: Any = object()


@dataclass(frozen=True, slots=True)
class Flaw:
    """Something an API server refuses. `path` leads to the field: keys and list indexes."""

    path: Path
    message: str

    @property
    def dotted(self) -> str:
        return dotted(self.path)


def dotted(path: Path) -> str:
    """`('spec', 'env', 1)` as Kubernetes writes it: `spec.env[1]`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


@dataclass(slots=True)
class SchemaFindings:
    """What one pass over a document found. `mutated`: a webhook has filled required fields with their zero values."""

    mutated: bool
    flaws: list[Flaw] = field(default_factory=list)

    def refuse(self, where: Any, message: str) -> None:
        self.flaws.append(Flaw(unroll(where), message))


def unroll(where: Any) -> Path:
    """A linked path (parent, key) as a plain tuple."""
    parts: list[Any] = []
    while where:
        where, part = where
        parts.append(part)
    return tuple(reversed(parts))


class SchemaNode:
    """One shape of value. `read` returns the value in normal form, or _MISSING when there is nothing to keep."""

    __slots__ = ("default", "keep")
    type_name = "object"
    zero: Any = _MISSING

    def __init__(self, raw: Mapping[str, Any]) -> None:
        self.default = raw.get("default")
        self.keep = raw.get("keep", False)

    def read(self, value: Any, where: Any, reading: SchemaFindings) -> Any:
        return value

    def mistyped(self, value: Any, where: Any, reading: SchemaFindings) -> Any:
        path = dotted(unroll(where))
        kind = _kind(value)
        problem = f'{path}: Invalid value: "{kind}": {path} in body must be of type {self.type_name}: "{kind}"'
        reading.refuse(where, problem + _to_write(value, self.type_name))
        return _MISSING


def _to_write(value: Any, wanted: str) -> str:
    """What to write where that is plain; it does not show the value, which may be a secret."""
    match wanted, value:
        case "string", bool() | int() | float():
            return "; put it in quotes"
        case "string", {} if len(value) == 1 and (flag := str(next(iter(value)))).startswith("-"):
            return f"; a colon makes a mapping of it: write {flag}=VALUE"
        case "array", str():
            return "; write a list, each item after a `- `"
        case "integer", str() if value.strip().isdecimal():
            return "; write it without quotes"
        case "boolean", str() if value.lower() in ("true", "false"):
            return "; write it without quotes"
        case _:
            return ""


def _kind(value: Any) -> str:
    names = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    return names.get(type(value), "null" if value is None else "string")


class StringNode(SchemaNode):
    __slots__ = ("_enum", "_max", "_min", "_pattern")
    type_name = "string"
    zero = ""

    def __init__(self, raw: Mapping[str, Any]) -> None:
        super().__init__(raw)
        self._enum = raw.get("enum")
        self._pattern = re.compile(raw["pattern"]) if "pattern" in raw else None
        self._min, self._max = raw.get("minLength", 0), raw.get("maxLength")

    def read(self, value: Any, where: Any, reading: SchemaFindings) -> Any:
        if type(value) is not str:
            return self.mistyped(value, where, reading)
        if not value and not self.keep and not self._enum and not self._min:
            return _MISSING
        if self._enum or self._pattern or self._min or self._max:
            self._limits(value, where, reading)
        return value

    def _limits(self, value: str, where: Any, reading: SchemaFindings) -> None:
        path = dotted(unroll(where))
        if self._enum and value not in self._enum:
            known = ", ".join(f'"{item}"' for item in self._enum)
            reading.refuse(where, f'{path}: Unsupported value: "{value}": supported values: {known}')
        if self._pattern and not self._pattern.search(value):
            rule = f"should match '{self._pattern.pattern}'"
            reading.refuse(where, f'{path}: Invalid value: "{value}": {path} in body {rule}')
        if len(value) < self._min:
            rule = f"should be at least {self._min} chars long"
            reading.refuse(where, f'{path}: Invalid value: "{value}": {path} in body {rule}')
        if self._max is not None and len(value) > self._max:
            reading.refuse(where, f"{path}: Too long: may not be more than {self._max} bytes")


class IntegerNode(SchemaNode):
    __slots__ = ("_high", "_low")
    type_name = "integer"
    zero = 0

    def __init__(self, raw: Mapping[str, Any]) -> None:
        super().__init__(raw)
        bits = 31 if raw.get("format") == "int32" else 63
        self._low, self._high = raw.get("minimum", -(2**bits)), raw.get("maximum", 2**bits - 1)

    def read(self, value: Any, where: Any, reading: SchemaFindings) -> Any:
        if type(value) is float and value.is_integer():
            value = int(value)
        if type(value) is not int:
            return self.mistyped(value, where, reading)
        if self._low <= value <= self._high:
            return value
        path = dotted(unroll(where))
        side = f"greater than or equal to {self._low}" if value < self._low else f"less than or equal to {self._high}"
        reading.refuse(where, f"{path}: Invalid value: {value}: {path} in body should be {side}")
        return _MISSING


class BooleanNode(SchemaNode):
    __slots__ = ()
    type_name = "boolean"
    zero = False

    def read(self, value: Any, where: Any, reading: SchemaFindings) -> Any:
        return value if type(value) is bool else self.mistyped(value, where, reading)


class QuantityNode(SchemaNode):
    __slots__ = ()
    type_name = "string"

    def read(self, value: Any, where: Any, reading: SchemaFindings) -> Any:
        if type(value) is str or type(value) is int or type(value) is float:
            if is_quantity(value):
                return canonical(value)
            path = dotted(unroll(where))
            rule = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
            reading.refuse(where, f'{path}: Invalid value: "{value}": {rule}')
            return _MISSING
        return self.mistyped(value, where, reading)


class IntOrStringNode(SchemaNode):
    __slots__ = ()
    type_name = "integer or string"
    zero = 0

    def read(self, value: Any, where: Any, reading: SchemaFindings) -> Any:
        return value if type(value) is int or type(value) is str else self.mistyped(value, where, reading)


class MapNode(SchemaNode):
    __slots__ = ("values",)
    values: SchemaNode

    def read(self, value: Any, where: Any, reading: SchemaFindings) -> Any:
        if type(value) is not dict:
            return self.mistyped(value, where, reading)
        result = {}
        for key, item in value.items():
            if type(key) is not str:
                reading.refuse((where, key), f"{dotted(unroll(where))}: keys must be strings, not {_kind(key)}")
                continue
            if item is None:
                item = self.values.zero
            read = self.values.read(item, (where, key), reading) if item is not _MISSING else _MISSING
            if read is not _MISSING:
                result[key] = read
            elif item == self.values.zero == "":
                result[key] = ""
        return result if result or self.keep else _MISSING


class ArrayNode(SchemaNode):
    __slots__ = ("_keys", "items")
    type_name = "array"
    items: SchemaNode

    def __init__(self, raw: Mapping[str, Any]) -> None:
        super().__init__(raw)
        self._keys: list[str] = raw.get("keys", [])

    def read(self, value: Any, where: Any, reading: SchemaFindings) -> Any:
        if type(value) is not list:
            return self.mistyped(value, where, reading)
        items = self.items
        result = []
        for index, item in enumerate(value):
            here = (where, index)
            if item is None and items.zero is not _MISSING:
                item = items.zero
            read = items.read(item, here, reading)
            if read is not _MISSING:
                result.append(read)
            elif item == items.zero == "":
                result.append("")
        if self._keys and len(result) > 1:
            self._unique(result, where, reading)
        return result if result or self.keep else _MISSING

    def _unique(self, items: list[Any], where: Any, reading: SchemaFindings) -> None:
        seen = set()
        for index, item in enumerate(items):
            key = tuple(str(item.get(name, "")) for name in self._keys)
            if key in seen:
                path = dotted(unroll((where, index)))
                shown = ", ".join(f'"{name}":{json.dumps(item.get(name, ""))}' for name in self._keys)
                reading.refuse((where, index), f"{path}: Duplicate value: map[string]interface {{}}{{{shown}}}")
            seen.add(key)


class ObjectNode(SchemaNode):
    __slots__ = ("_defaults", "properties", "required")

    def __init__(self, raw: Mapping[str, Any]) -> None:
        super().__init__(raw)
        self.required: list[str] = raw.get("r", [])
        self.properties: dict[str, SchemaNode] = {}
        # In addition to defaults of the API: what Go always writes.
        self._defaults: list[tuple[str, Any]] = list(raw.get("fill", {}).items())

    def link(self, properties: dict[str, SchemaNode]) -> None:
        self.properties = properties
        self._defaults += [(key, node.default) for key, node in properties.items() if node.default]

    def read(self, value: Any, where: Any, reading: SchemaFindings) -> Any:
        if type(value) is not dict:
            return self.mistyped(value, where, reading)
        result = {}
        properties = self.properties
        for key, item in value.items():
            node = properties.get(key)
            if node is None:
                self._unknown(key, where, reading)
            elif item is not None:
                read = node.read(item, (where, key), reading)
                if read is not _MISSING and (read or key not in _ZERO_IS_UNSET):
                    result[key] = read
        for key, default in self._defaults:
            if key not in result and value.get(key) is None:
                result[key] = default
        for key in self.required:
            if key not in result and value.get(key) is None:
                self._absent(key, where, reading, result)
            elif key not in result and value[key] == "":
                result[key] = ""
        return result

    def _unknown(self, key: Any, where: Any, reading: SchemaFindings) -> None:
        near = nearest(str(key), self.properties, 0.6)
        hint = f'; did you mean "{near}"?' if near else ""
        reading.refuse((where, key), f'strict decoding error: unknown field "{dotted(unroll((where, key)))}"{hint}')

    def _absent(self, key: str, where: Any, reading: SchemaFindings, result: dict[str, Any]) -> None:
        """A required field that is missing; a webhook that has been over the document left Go's zero value there."""
        node, here = self.properties[key], (where, key)
        if not reading.mutated:
            reading.refuse(here, f"{dotted(unroll(here))}: Required value")
        elif isinstance(node, ArrayNode | MapNode):
            node.mistyped(None, here, reading)
        else:
            zero = {} if isinstance(node, ObjectNode) else node.zero
            node.read(zero, here, reading)
            result[key] = zero


_CLASSES: dict[str, type[SchemaNode]] = {
    "string": StringNode,
    "integer": IntegerNode,
    "number": SchemaNode,
    "boolean": BooleanNode,
    "quantity": QuantityNode,
    "int-or-string": IntOrStringNode,
    "map": MapNode,
    "array": ArrayNode,
    "object": ObjectNode,
    "any": SchemaNode,
}


@cache
def roots() -> Mapping[str, SchemaNode]:
    """One node for each `apiVersion/kind` that we know."""
    data = json.loads(files(__package__).joinpath("schema.json").read_bytes())
    nodes = [_CLASSES[raw["t"]](raw) for raw in data["nodes"]]
    for node, raw in zip(nodes, data["nodes"], strict=True):
        if isinstance(node, ObjectNode):
            node.link({key: nodes[index] for key, index in raw["p"].items()})
        elif isinstance(node, MapNode):
            node.values = nodes[raw["v"]]
        elif isinstance(node, ArrayNode):
            node.items = nodes[raw["v"]]
    return {name: nodes[index] for name, index in data["roots"].items()}


def read(document: Mapping[str, Any], *, mutated: bool = False) -> tuple[dict[str, Any], tuple[Flaw, ...]]:
    """A document in the form a cluster stores it, and what an API server refuses about it.

    Of a kind that we have no schema of only labels and annotations are looked at. `mutated` is True for kinds whose
    webhook rewrites them before the schema is checked.
    """
    root = root_of(document)
    if root is None:
        return _of_other_kind(document)
    reading = SchemaFindings(mutated)
    result = root.read(document if type(document) is dict else dict(document), None, reading)
    return result, tuple(reading.flaws)


def _of_other_kind(document: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[Flaw, ...]]:
    metadata = document.get("metadata")
    known = roots()["v1/ConfigMap"]
    if not isinstance(metadata, dict) or not isinstance(known, ObjectNode):
        return dict(document), ()
    fields = known.properties["metadata"]
    texts = {key: metadata[key] for key in ("labels", "annotations") if metadata.get(key) is not None}
    reading = SchemaFindings(mutated=False)
    read = fields.read(texts, (None, "metadata"), reading)
    rest = {key: value for key, value in metadata.items() if key not in texts}
    return {**document, "metadata": {**rest, **read}}, tuple(reading.flaws)


def root_of(document: Mapping[str, Any]) -> SchemaNode | None:
    """The node of a document's kind; None where we have no schema for it."""
    return roots().get(f"{document.get('apiVersion')}/{document.get('kind')}")
