"""CustomResourceDefinitions of KServe 0.20, made of our table of its fields.

What the table has of types, required fields, limits, defaults and keys of lists, the API server checks. What no test
writes is left open: components other than the predictor, old framework fields, and the status.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.controlplane.api import Api, ApiError, wait_for

Schema = dict[str, Any]
GROUP = "serving.kserve.io"
KINDS = {
    "InferenceService": ("v1beta1", "inferenceservices", ["isvc"], "Namespaced"),
    "ServingRuntime": ("v1alpha1", "servingruntimes", [], "Namespaced"),
    "ClusterServingRuntime": ("v1alpha1", "clusterservingruntimes", [], "Cluster"),
    "ClusterStorageContainer": ("v1alpha1", "clusterstoragecontainers", [], "Cluster"),
}
_TABLE = json.loads((Path(__file__).parents[3] / "reconciler" / "kserve" / "schema.json").read_text())
_OPEN: Schema = {"x-kubernetes-preserve-unknown-fields": True}
_LEFT_OPEN = frozenset(
    {"explainer", "transformer", "canary", "tracing", "workerSpec", "sklearn", "xgboost", "tensorflow", "pytorch"}
    | {"triton", "onnx", "pmml", "lightgbm", "paddle"}
)
_SCALARS: dict[str, Schema] = {
    "any": _OPEN,
    "quantity": {"x-kubernetes-int-or-string": True},
    "int-or-string": {"x-kubernetes-int-or-string": True},
}
_KEPT = ("default", "enum", "format", "maximum", "maxLength", "minimum", "minItems", "minLength", "pattern")
_READY = {"name": "Ready", "type": "string", "jsonPath": '.status.conditions[?(@.type=="Ready")].status'}


def make_crds() -> list[dict[str, Any]]:
    """One for each kind."""
    return [_crd(kind) for kind in KINDS]


def install_crds(api: Api) -> None:
    """Returns once objects of all kinds can be made. CRDs that are there already are left as they are."""
    for crd in make_crds():
        if api.find(crd) is None:
            api.create(crd)
    wait_for(lambda: all(_is_served(api, kind) for kind in KINDS), what="KServe's kinds are served")


def remove_crds(api: Api) -> None:
    """Returns once they are gone, and every object of their kinds with them. For our own control planes only."""
    crds = make_crds()
    for crd in crds:
        api.delete(crd)
    wait_for(lambda: not any(map(api.find, crds)), what="the CRDs are gone")


def _is_served(api: Api, kind: str) -> bool:
    try:
        api.list(f"{GROUP}/{KINDS[kind][0]}", kind)
    except (ApiError, KeyError):
        return False
    return True


def _crd(kind: str) -> dict[str, Any]:
    version, plural, short, scope = KINDS[kind]
    schema = _schema(_TABLE["roots"][f"{GROUP}/{version}/{kind}"])
    schema["properties"] |= {"metadata": {"type": "object"}, "status": {"type": "object", **_OPEN}}
    served: dict[str, Any] = {
        "name": version,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
        "subresources": {"status": {}},
        "additionalPrinterColumns": [_READY] if kind == "InferenceService" else [],
    }
    names = {"kind": kind, "listKind": f"{kind}List", "plural": plural, "singular": kind.lower(), "shortNames": short}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {"group": GROUP, "scope": scope, "names": names, "versions": [served]},
    }


def _schema(number: int) -> Schema:
    node = _TABLE["nodes"][number]
    kind = node["t"]
    schema: Schema = dict(_SCALARS[kind]) if kind in _SCALARS else {"type": "object" if kind == "map" else kind}
    schema |= {key: node[key] for key in _KEPT if key in node}
    if kind == "map":
        schema["additionalProperties"] = _schema(node["v"])
    elif kind == "array":
        schema |= {"items": _schema(node["v"]), **_list_type(node)}
    elif kind == "object":
        fields = node.get("p", {})
        schema |= {"properties": {name: _field(name, each) for name, each in fields.items()}} if fields else _OPEN
        schema |= {"required": node["r"]} if node.get("r") else {}
    return schema


def _field(name: str, number: int) -> Schema:
    return dict(_OPEN) if name in _LEFT_OPEN else _schema(number)


def _list_type(node: dict[str, Any]) -> Schema:
    if "keys" in node:
        return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": node["keys"]}
    return {"x-kubernetes-list-type": "set" if node.get("set") else "atomic"}
