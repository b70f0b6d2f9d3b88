"""Models cached on a cluster's nodes: which services use such a cache, and the volume that holds the model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from reconciler.kserve import names
from reconciler.kserve.predictor import implementations, storage_uri
from reconciler.kserve.storage import StorageError

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class LocalModel:
    """One LocalModelNamespaceCache or LocalModelCache. `namespace` is empty for the latter."""

    name: str
    namespace: str
    uri: str
    groups: tuple[str, ...]

    def holds(self, uri: str) -> bool:
        """Is this the cached model, or something below it?"""
        return (uri.removesuffix("/") + "/").startswith(self.uri.removesuffix("/") + "/")

    def claim(self, group: str | None) -> str:
        """Name of the claim for a group of nodes, the first one by default; empty where the group has no copy."""
        chosen = next(iter(self.groups), None) if group is None else group if group in self.groups else None
        return "" if chosen is None else f"{self.name}-{chosen}"


def mark_local_model(metadata: dict[str, Any], predictor: Document, models: Iterable[LocalModel]) -> None:
    """Write down the cache that serves this service, or wipe away what claims that there is one.

    `models` are those in sight, the namespace's own first.
    """
    found = implementations(predictor)
    uri = storage_uri(predictor) if found else None
    if uri is None:
        return
    labels = {key: value for key, value in (metadata.get("labels") or {}).items() if key not in _LABELS}
    annotations = {key: value for key, value in (metadata.get("annotations") or {}).items() if key not in _ANNOTATIONS}
    group = annotations.get(names.NODE_GROUP)
    model = next((each for each in models if each.holds(uri) and each.claim(group)), None)
    if model:
        labels[names.LOCAL_MODEL] = model.name
        if model.namespace:
            labels[names.LOCAL_MODEL_NAMESPACE] = model.namespace
        annotations[names.LOCAL_MODEL_URI] = model.uri
        annotations[names.LOCAL_MODEL_CLAIM] = model.claim(group)
    for key, value in (("labels", labels), ("annotations", annotations)):
        if value or key in metadata:
            metadata[key] = value


def local_uri(uri: str, labels: Mapping[str, str], annotations: Mapping[str, str]) -> str:
    """Where a pod finds its model: in the cache's volume when its labels name a cache. Raises StorageError."""
    if names.LOCAL_MODEL not in labels:
        return uri
    cached = annotations.get(names.LOCAL_MODEL_URI, "")
    if names.LOCAL_MODEL_CLAIM not in annotations:
        raise StorageError(f"Annotation {names.LOCAL_MODEL_CLAIM} not found")
    folder = uri.removeprefix(cached)
    key = hashlib.sha256(cached.encode()).hexdigest()[:16]
    return f"pvc://{annotations[names.LOCAL_MODEL_CLAIM]}/models/{key}{'' if folder.startswith('/') else '/'}{folder}"


_LABELS = frozenset({names.LOCAL_MODEL, names.LOCAL_MODEL_NAMESPACE})
_ANNOTATIONS = frozenset({names.LOCAL_MODEL_URI, names.LOCAL_MODEL_CLAIM})
