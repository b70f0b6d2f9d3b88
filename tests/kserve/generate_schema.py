"""Development tool: writes schema.json, the compact table of fields that `reconciler.kserve.schema` reads.

    python tests/kserve/generate_schema.py CRD_DIR

CRD_DIR holds the CustomResourceDefinitions of one KServe release as YAML (for 0.20.0: config/crd/full of its sources).
Their schemas already spell out the core Kubernetes types as the API server checks them. The few core kinds that a tree
holds beside them (Secret, ConfigMap, ServiceAccount, Namespace) come from the models of the `kubernetes` package.

Equal subtrees are stored once: the table is a list of nodes, and a node refers to others by index.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import yaml

KINDS = {
    "InferenceService",
    "ServingRuntime",
    "ClusterServingRuntime",
    "ClusterStorageContainer",
    "LocalModelCache",
    "LocalModelNamespaceCache",
}
# Fields that Go holds behind a pointer: an empty value is a value, not an absence.
POINTERS = {
    "model": {"storageUri", "runtime", "runtimeVersion", "protocolVersion"},
    "modelFormat": {"version"},
    "supportedModelFormats": {"version"},
    "storage": {"key", "path", "schemaPath", "parameters", "serviceAccountName"},
    "logger": {"url", "marshallerUrl", "batchInterval"},
    "predictor": {"storageContainerName"},
}
# Fields that Go always writes, although the schema does not ask for them.
FILLED: dict[str, dict[str, Any]] = {
    "httpGet": {"port": 0},
    "tcpSocket": {"port": 0},
    "resourceFieldRef": {"divisor": "0"},
}
FRAMEWORKS = [
    "sklearn",
    "xgboost",
    "tensorflow",
    "pytorch",
    "triton",
    "onnx",
    "huggingface",
    "pmml",
    "lightgbm",
    "paddle",
]
# Fields that only a later KServe has; `reconciler.kserve.api_server` warns about them.
LATER_IN_RUNTIMES = "resourceClaims"  # with the schema that the predictor's own has
LATER_IN_SERVICES = "tracing"
CORE = {
    "Secret": "V1Secret",
    "ConfigMap": "V1ConfigMap",
    "ServiceAccount": "V1ServiceAccount",
    "Namespace": "V1Namespace",
}


class Table:
    """Nodes, each stored once."""

    def __init__(self) -> None:
        self.nodes: list[dict[str, Any]] = []
        self._index: dict[str, int] = {}

    def add(self, node: dict[str, Any]) -> int:
        key = json.dumps(node, sort_keys=True)
        if key not in self._index:
            self._index[key] = len(self.nodes)
            self.nodes.append(node)
        return self._index[key]


def compact(table: Table, schema: dict[str, Any], owner: str = "", name: str = "") -> int:
    """Index of the node for one OpenAPI schema; `owner` and `name` say which property of what it is."""
    node: dict[str, Any] = {}
    if "default" in schema and schema["default"] not in ("", None):
        node["default"] = schema["default"]
    owner = "model" if owner in FRAMEWORKS else owner
    if name in POINTERS.get(owner, ()):
        node["keep"] = True
    if schema.get("x-kubernetes-int-or-string"):
        node["t"] = "quantity" if "pattern" in schema else "int-or-string"
    elif schema.get("x-kubernetes-preserve-unknown-fields") or "type" not in schema:
        node["t"] = "any"
    elif schema["type"] == "object" and "properties" in schema:
        node["t"] = "object"
        node["p"] = {k: compact(table, v, name, k) for k, v in schema["properties"].items()}
        if schema.get("required"):
            node["r"] = schema["required"]
        if name in FILLED:
            node["fill"] = FILLED[name]
    elif schema["type"] == "object":
        extra = schema.get("additionalProperties")
        node["t"] = "map" if extra else "any"
        if extra:
            node["v"] = compact(table, extra, name)
    elif schema["type"] == "array":
        node |= {"t": "array", "v": compact(table, schema["items"], owner, name)}
        if schema.get("x-kubernetes-list-map-keys"):
            node["keys"] = schema["x-kubernetes-list-map-keys"]
        if schema.get("x-kubernetes-list-type") == "set":
            node["set"] = True
    else:
        node["t"] = schema["type"]
    for key in ("enum", "minimum", "maximum", "minLength", "maxLength", "minItems", "format"):
        if key in schema:
            node[key] = schema[key]
    if "pattern" in schema and node["t"] == "string":
        node["pattern"] = schema["pattern"]
    return table.add(node)


def core_model(table: Table, name: str) -> int:
    """Index of the node for one model of the `kubernetes` package, from its openapi_types."""
    import kubernetes.client.models as models

    model = getattr(models, name)
    properties = {model.attribute_map[k]: core_type(table, v) for k, v in model.openapi_types.items()}
    return table.add({"t": "object", "p": properties})


def core_type(table: Table, text: str) -> int:
    if match := re.fullmatch(r"[Dd]ict[(\[]str, (.+)[)\]]", text):
        return table.add({"t": "map", "v": core_type(table, match[1])})
    if match := re.fullmatch(r"[Ll]ist\[(.+)\]", text):
        return table.add({"t": "array", "v": core_type(table, match[1])})
    plain = {
        "str": "string",
        "bool": "boolean",
        "int": "integer",
        "datetime": "string",
        "object": "any",
        "bytes": "string",
        "bytearray": "string",
    }
    if text == "V1ObjectMeta":
        return metadata(table)
    return table.add({"t": plain[text]}) if text in plain else core_model(table, text)


def metadata(table: Table) -> int:
    """metadata as the API server reads it; managedFields and ownerReferences are accepted as they are."""
    import kubernetes.client.models as models

    model = models.V1ObjectMeta
    properties = {}
    for key, kind in model.openapi_types.items():
        name = model.attribute_map[key]
        opaque = name in {"managedFields", "ownerReferences"}
        properties[name] = table.add({"t": "any"}) if opaque else core_type(table, kind)
    return table.add({"t": "object", "p": properties})


def add_later_fields(crds: dict[str, dict[str, Any]]) -> None:
    """What a later KServe has, in the schemas of this one."""
    of_service = spec_of(crds["InferenceService"])
    claims = of_service["predictor"]["properties"][LATER_IN_RUNTIMES]
    of_service[LATER_IN_SERVICES] = {"type": "object"}
    for kind in ("ServingRuntime", "ClusterServingRuntime"):
        of_runtime = spec_of(crds[kind])
        for properties in (of_runtime, of_runtime["workerSpec"]["properties"]):
            properties[LATER_IN_RUNTIMES] = claims


def spec_of(crd: dict[str, Any]) -> dict[str, Any]:
    return crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]  # type: ignore[no-any-return]


def crd_roots(table: Table, folder: Path) -> dict[str, int]:
    roots: dict[str, int] = {}
    crds: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.rglob("*.yaml")):
        document = yaml.load(path.read_bytes(), Loader=yaml.CSafeLoader)
        kind = document.get("spec", {}).get("names", {}).get("kind") if document else None
        if kind in KINDS:
            crds[kind] = document
    add_later_fields(crds)
    for kind, document in crds.items():
        for version in document["spec"]["versions"]:
            schema = version["schema"]["openAPIV3Schema"]
            schema["properties"].pop("metadata"), schema["properties"].pop("status", None)
            index = compact(table, schema)
            table.nodes[index]["p"] |= {"metadata": metadata(table), "status": table.add({"t": "any"})}
            roots[f"{document['spec']['group']}/{version['name']}/{kind}"] = index
    return roots


def main() -> None:
    table = Table()
    roots = crd_roots(table, Path(sys.argv[1]))
    roots |= {f"v1/{kind}": core_model(table, model) for kind, model in CORE.items()}
    target = Path(__file__).parents[2] / "reconciler" / "kserve" / "schema.json"
    target.write_text(json.dumps({"roots": roots, "nodes": table.nodes}, separators=(",", ":")) + "\n")
    print(f"{target}: {len(table.nodes)} nodes, {target.stat().st_size} bytes")


if __name__ == "__main__":
    main()
