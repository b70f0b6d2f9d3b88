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


_PROTOCOLS = {"mlserver": "v2", "tritonserver": "v2", "torchserve": "v1"}


def server_of(runtime: Runtime) -> str:
    """Server type by the runtime's annotation, else by its name."""
    return runtime.annotations.get(names.SERVER_TYPE, names.server_type_of(runtime.name))


def protocol_of(model: Document, runtime: Runtime) -> str:
    """The model's own protocol, else the server type's, else the lowest that the runtime lists, else v1."""
    own: str | None = model.get("protocolVersion")
    return own if own is not None else _PROTOCOLS.get(server_of(runtime)) or runtime.protocol or "v1"


def with_server_defaults(model: Document, metadata: Document, runtime: Runtime) -> tuple[Document, Document]:
    """The model and the service's metadata with what the server type asks for."""
    server = server_of(runtime)
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
