"""Objects for tests, and what git says of them."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from reconciler.model import DesiredObject, ObjectId, Origin


def desired(body: dict[str, Any], **more: Any) -> DesiredObject:
    """An object in git. Its hash is that of its body."""
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]
    return DesiredObject(ObjectId.of(body), Origin("models/web.yaml", 1), body, digest, **more)


def config_map(name: str = "web", **annotations: str) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "default", "annotations": annotations}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"a": "1"}}


def deployment(image: str = "a:1", replicas: int | None = 1, **annotations: str) -> dict[str, Any]:
    container = {
        "name": "c",
        "image": image,
        "args": ["--port", "8080"],
        "env": [{"name": "A", "value": "1"}],
        "ports": [{"containerPort": 8080}],
        "resources": {"requests": {"cpu": "1000m", "memory": "1024Mi"}},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "default", "labels": {"app": "web"}, "annotations": annotations},
        "spec": {
            **({} if replicas is None else {"replicas": replicas}),
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [container]}},
        },
    }


def entry(manager: str, fields: dict[str, Any], operation: str = "Update", subresource: str = "") -> dict[str, Any]:
    """One of managedFields."""
    said = {"manager": manager, "operation": operation, "apiVersion": "v1", "fieldsType": "FieldsV1"}
    return {**said, "fieldsV1": fields, **({"subresource": subresource} if subresource else {})}


def live(body: dict[str, Any], *entries: dict[str, Any], uid: str = "u1", version: str = "1") -> dict[str, Any]:
    """The object as the API server has it, without defaults."""
    made = {"uid": uid, "resourceVersion": version, "managedFields": list(entries)}
    return body | {"metadata": body["metadata"] | made}


def fields_of(value: Any) -> dict[str, Any]:
    """fieldsV1 of whoever applies a value: lists of maps with names by name, other lists as a whole."""
    if isinstance(value, dict):
        return {f"f:{key}": fields_of(each) for key, each in value.items()}
    if isinstance(value, list) and value and all(isinstance(each, dict) and "name" in each for each in value):
        return {f"k:{_name_of(each)}": {".": {}, **fields_of(each)} for each in value}
    return {}


def _name_of(item: dict[str, Any]) -> str:
    return json.dumps({"name": item["name"]}, separators=(",", ":"))


def fields_of_object(body: dict[str, Any]) -> dict[str, Any]:
    """The same of an object: what it is called is owned by nobody."""
    metadata = {key: each for key, each in body["metadata"].items() if key not in ("name", "namespace")}
    rest = {key: each for key, each in body.items() if key not in ("apiVersion", "kind", "metadata")}
    return fields_of({"metadata": metadata, **rest})


def ours(body: dict[str, Any]) -> dict[str, Any]:
    return entry("reconciler", fields_of_object(body), "Apply")
