"""`{{.Name}}` and its like in containers: KServe runs the merged container as one HTML template over the metadata."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from reconciler.formats import json_values
from reconciler.kserve import gojson
from reconciler.kserve.template import Struct, render
from reconciler.kserve.template_syntax import TemplateError

_SIMPLE = re.compile(r"\{\{ *\.(Name|Namespace) *\}\}")
_MARKS = re.compile(r'["&\'+<>\\\x00-\x1f]')


def replace_placeholders(container: Mapping[str, Any], metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    """The container after execution. Raises TemplateError, also where the result is no longer a container."""
    text = gojson.dumps(container)
    if "{{" not in text:
        return container
    done = _simple(text, metadata)
    if done is not None:
        simple: Mapping[str, Any] = json_values.loads(done)
        return simple
    done = render(text, struct_of(metadata), html=True)
    try:
        result = json_values.loads(done)
    except (ValueError, RecursionError) as error:
        raise TemplateError(f"the result is not JSON: {error}") from None
    if not _same_shape(container, result):
        raise TemplateError("the result is not a container")
    return {key: value for key, value in result.items() if value not in ("", [], None)}


def _simple(text: str, metadata: Mapping[str, Any]) -> str | None:
    """The quick way for what nearly all runtimes use: only `{{.Name}}` and `{{.Namespace}}`, with harmless values."""
    name, namespace = metadata.get("name", ""), metadata.get("namespace", "")
    if _MARKS.search(name + namespace):
        return None
    done = _SIMPLE.sub(lambda match: name if match[1] == "Name" else namespace, text)
    return None if "{{" in done else done


def struct_of(metadata: Mapping[str, Any]) -> Struct:
    """metadata as the Go struct that templates see; what only a cluster knows is empty."""
    return Struct(
        Name=metadata.get("name", ""),
        GenerateName=metadata.get("generateName", ""),
        Namespace=metadata.get("namespace", ""),
        SelfLink="",
        UID="",
        ResourceVersion="",
        Generation=1,
        CreationTimestamp="",
        DeletionTimestamp=None,
        DeletionGracePeriodSeconds=None,
        Labels=metadata.get("labels") or {},
        Annotations=metadata.get("annotations") or {},
        OwnerReferences=[],
        Finalizers=["inferenceservice.finalizers"],
        ManagedFields=[],
    )


def _same_shape(before: Any, after: Any) -> bool:
    """A value may change its text but not its type: Go reads the result back into the same struct."""
    if isinstance(before, Mapping) and isinstance(after, dict):
        return all(_same_shape(before[key], after[key]) for key in before.keys() & after.keys())
    if isinstance(before, list) and isinstance(after, list):
        return all(_same_shape(old, new) for old, new in zip(before, after, strict=False))
    return type(before) is type(after)
