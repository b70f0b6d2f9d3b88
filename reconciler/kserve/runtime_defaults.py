"""What KServe adds for three well-known servers once their runtime is chosen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reconciler.kserve import names
from reconciler.kserve.selection import Runtime

Document = Mapping[str, Any]
_MODEL_CLASSES = {
    "xgboost": "mlserver_xgboost.XGBoostModel",
    "lightgbm": "mlserver_lightgbm.LightGBMModel",
    "mlflow": "mlserver_mlflow.MLflowRuntime",
}


def with_server_defaults(model: Document, metadata: Document, runtime: Runtime) -> tuple[Document, Document]:
    """The model and the service's metadata with what the server type asks for."""
    server = runtime.annotations.get(names.SERVER_TYPE, names.server_type_of(runtime.name))
    stored = "storageUri" in model or "storage" in model
    if server == "mlserver":
        return _mlserver(model, metadata, stored)
    if server == "torchserve":
        return _torchserve(model, metadata)
    if server == "tritonserver" and not stored:
        return {**model, "args": [*(model.get("args") or ()), "--model-control-mode=explicit"]}, metadata
    return model, metadata


def _mlserver(model: Document, metadata: Document, stored: bool) -> tuple[Document, Document]:
    added = {"MLSERVER_MODEL_NAME": metadata.get("name", ""), "MLSERVER_MODEL_URI": names.MODEL_MOUNT}
    env = list(model.get("env") or ())
    known = {item.get("name") for item in env}
    for name, value in (added if stored else {"MLSERVER_LOAD_MODELS_AT_STARTUP": "false"}).items():
        if name not in known:
            env.append({"name": name, "value": value})
    format_name = (model.get("modelFormat") or {}).get("name", "")
    kind = _MODEL_CLASSES.get(format_name, "mlserver_sklearn.SKLearnModel")
    return {**model, "env": env}, _labelled(metadata, "modelClass", kind)


def _torchserve(model: Document, metadata: Document) -> tuple[Document, Document]:
    protocol = model.get("protocolVersion") or "v1"
    envelope = "kservev2" if protocol in ("v2", "grpc-v2") else "kserve"
    env = [*(model.get("env") or ()), {"name": "PROTOCOL_VERSION", "value": protocol}]
    return {**model, "env": env}, _labelled(metadata, "serviceEnvelope", envelope)


def _labelled(metadata: Document, key: str, value: str) -> Document:
    return {**metadata, "labels": {**(metadata.get("labels") or {}), key: value}}
