"""What a later KServe takes and 0.20 refuses: accepted here, with a warning that names the version."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from reconciler.kserve.issues import Issue
from reconciler.model import ReasonCode

VERSION = "0.21"
_OF_RUNTIMES = (("spec", "resourceClaims"), ("spec", "workerSpec", "resourceClaims"))
# schema.json has them in addition to the kinds of 0.20.
_FIELDS = {
    "InferenceService": (("spec", "tracing"),),
    "ServingRuntime": _OF_RUNTIMES,
    "ClusterServingRuntime": _OF_RUNTIMES,
}


def later(what: str, *path: Any) -> Issue:
    """The warning about one field or value."""
    return Issue(ReasonCode.NEWER_VERSION_REQUIRED, f"{what} needs KServe {VERSION}; 0.20 refuses it", path)


def later_fields(document: Mapping[str, Any]) -> Iterator[Issue]:
    """A warning for each field of a document that 0.20 does not know."""
    for path in _FIELDS.get(str(document.get("kind")), ()):
        value: Any = document
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        if value is not None:
            yield later(path[-1], *path)
