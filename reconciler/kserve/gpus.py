"""Which resources KServe counts as GPUs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reconciler.formats import json_values
from reconciler.kserve import names
from reconciler.kserve.config import Config

Document = Mapping[str, Any]
_BASIC_RESOURCES = frozenset({"cpu", "memory", "storage", "ephemeral-storage"})


def unknown_gpu(resources: Document, annotations: Mapping[str, str], config: Config, error: type[Exception]) -> bool:
    """True when a resource is neither basic nor a GPU that is known or named by the annotation. Raises `error`."""
    known = set(config.gpu_types)
    custom = annotations.get(names.GPU_RESOURCE_TYPES)
    if custom:
        named = _text_list(custom)
        if named is None:
            raise error(
                f"invalid GPU format({custom}) for {names.GPU_RESOURCE_TYPES} annotation: must be a valid JSON array"
            )
        known.update(named)
    used = {*(resources.get("limits") or {}), *(resources.get("requests") or {})}
    return bool(used - _BASIC_RESOURCES - known)


def _text_list(text: str) -> list[str] | None:
    try:
        items = json_values.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(items, list) or not items:
        return None
    return items if all(isinstance(item, str) and item for item in items) else None
