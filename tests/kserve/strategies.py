"""Hypothesis strategies that make documents from the shape of the API: mostly right, sometimes deliberately wrong."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from reconciler.kserve import schema
from reconciler.kserve import schema as nodes

_JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**40) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
# Words that mean something somewhere, so that rules are reached and not only types.
_WORDS = st.sampled_from(
    [
        *("kserve-container", "transformer-container", "worker-container", "storage-initializer", "m", "r", "vLLM"),
        *("{{.Name}}", "{{", "{{.Labels.x}}", "{{index .Annotations `a-b`}}", "{{range .Labels}}x{{end}}", "$(A)"),
        *(
            "s3://b/p",
            "pvc://c/p",
            "hf://o/m",
            "oci://i:1",
            "oci+native://i",
            "gs://",
            "/mnt/models",
            "/mnt",
            "ftp://x",
        ),
        *("true", "false", "Standard", "Knative", "ModelMesh", "none", "hpa", "keda", "v1", "v2", "default", "type"),
        *(
            "STORAGE_URI",
            "PYTHONPATH",
            "PROTOCOL",
            "MULTI_MODEL_SERVER",
            "nvidia.com/gpu",
            "cpu",
            "memory",
            "",
            "x" * 70,
        ),
    ]
)
_AMOUNTS = st.sampled_from(["1", "500m", "24Gi", "1e3", "-1", "abc", 2, 0.5, "0"])
_KEYS = st.sampled_from(
    [
        *("serving.kserve.io/deploymentMode", "serving.kserve.io/autoscalerClass", "serving.kserve.io/stop"),
        *("serving.kserve.io/storageSecretName", "serving.kserve.io/server-type", "storage.kserve.io/readonly"),
        *("serving.kserve.io/gpu-resource-types", "internal.serving.kserve.io/storage-initializer-sourceuri"),
        *("internal.serving.kserve.io/agent", "internal.serving.kserve.io/storage-spec", "openshift.io/display-name"),
        *("serving.kserve.io/storage-initializer-uid", "cpu", "memory", "nvidia.com/gpu", "type", "bucket", "x"),
    ]
)


@st.composite
def values(draw: st.DrawFn, node: nodes.SchemaNode, depth: int = 0) -> Any:
    """A value for one node of the schema; one in forty is junk."""
    if draw(st.integers(0, 39)) == 0:
        return draw(_JUNK)
    if isinstance(node, nodes.ObjectNode):
        return draw(_objects(node, depth))
    if isinstance(node, nodes.MapNode):
        return draw(st.dictionaries(_KEYS, values(node.values, depth + 1), max_size=3))
    if isinstance(node, nodes.ArrayNode):
        return draw(st.lists(values(node.items, depth + 1), max_size=2 if depth < 6 else 1))
    if isinstance(node, nodes.QuantityNode):
        return draw(_AMOUNTS)
    if isinstance(node, nodes.BooleanNode):
        return draw(st.booleans())
    if isinstance(node, nodes.IntegerNode):
        return draw(st.integers(-1, 3) | st.sampled_from([8080, 70000, 2**40]))
    return draw(_WORDS)


@st.composite
def _objects(draw: st.DrawFn, node: nodes.ObjectNode, depth: int) -> dict[str, Any]:
    most = 6 if depth < 5 else 1
    keys = draw(st.lists(st.sampled_from(sorted(node.properties)), max_size=most, unique=True)) if most else []
    wanted = dict.fromkeys([*(node.required if depth < 9 else ()), *keys])
    return {key: draw(values(node.properties[key], depth + 1)) for key in wanted}


@st.composite
def documents(draw: st.DrawFn, kind: str) -> dict[str, Any]:
    """A document of a kind, with a name that the manifest reader takes."""
    name = next(key for key in schema.roots() if key.endswith(f"/{kind}"))
    root = schema.roots()[name]
    assert isinstance(root, nodes.ObjectNode)
    document: dict[str, Any] = {"apiVersion": name.rpartition("/")[0], "kind": kind}
    for key in ("spec", "data", "stringData", "secrets"):
        if key in root.properties:
            document[key] = draw(values(root.properties[key]))
    metadata = draw(values(schema.roots()["v1/Secret"].properties["metadata"], 4))  # type: ignore[attr-defined]
    keep = {k: v for k, v in metadata.items() if k in ("labels", "annotations")} if isinstance(metadata, dict) else {}
    names = {"ConfigMap": "inferenceservice-config", "Secret": "storage-config"}
    return {**document, "metadata": {**keep, "name": names.get(kind, draw(st.sampled_from(["m", "r"])))}}


@st.composite
def near_misses(draw: st.DrawFn) -> dict[str, Any]:
    """A service that is nearly right, so that the later steps are reached, with one field of its model at random."""
    root: Any = schema.roots()["serving.kserve.io/v1beta1/InferenceService"]
    predictor = root.properties["spec"].properties["predictor"]
    model = {"modelFormat": {"name": "vLLM"}, "runtime": "r"}
    for holder, node in ((model, predictor.properties["model"]), (extra := {}, predictor)):
        for key in draw(st.lists(st.sampled_from(sorted(node.properties)), max_size=4, unique=True)):
            holder[key] = draw(values(node.properties[key], 3))
    notes = draw(st.dictionaries(_KEYS, _WORDS, max_size=3))
    metadata = {"name": "m", "annotations": notes, "labels": {"x": "y"}}
    spec = {"predictor": {"model": model, **extra}}
    return {"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "metadata": metadata, "spec": spec}
