"""The fields of KServe's API, read from schema.json, and the strict checks that an API server makes with them.

`read` does what happens to a document on its way into a cluster: unknown and ill-typed fields are refused with the API
server's messages, empty fields vanish, defaults are filled in, quantities get their normal form. What it returns holds
only what its schema allows, so everything after it can trust the types.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from reconciler.kserve.schema_nodes import (
    ArrayNode,
    BooleanNode,
    Flaw,
    IntegerNode,
    IntOrStringNode,
    MapNode,
    ObjectNode,
    QuantityNode,
    Reading,
    SchemaNode,
    StringNode,
)

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
    reading = Reading(mutated)
    result = root.read(document if type(document) is dict else dict(document), None, reading)
    return result, tuple(reading.flaws)


def _of_other_kind(document: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[Flaw, ...]]:
    metadata = document.get("metadata")
    known = roots()["v1/ConfigMap"]
    if not isinstance(metadata, dict) or not isinstance(known, ObjectNode):
        return dict(document), ()
    fields = known.properties["metadata"]
    texts = {key: metadata[key] for key in ("labels", "annotations") if metadata.get(key) is not None}
    reading = Reading(mutated=False)
    read = fields.read(texts, (None, "metadata"), reading)
    rest = {key: value for key, value in metadata.items() if key not in texts}
    return {**document, "metadata": {**rest, **read}}, tuple(reading.flaws)


def root_of(document: Mapping[str, Any]) -> SchemaNode | None:
    """The node of a document's kind; None where we have no schema for it."""
    return roots().get(f"{document.get('apiVersion')}/{document.get('kind')}")
