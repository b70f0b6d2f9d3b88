"""The `Host` document. It decides over everything on a host, so an unknown key invalidates all of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from reconciler.formats.spelling import nearest
from reconciler.formats.strict_yaml import FieldPath
from reconciler.manifests.manifest import Manifest
from reconciler.model import Reason, ReasonCode

_FIELDS: Final[Mapping[FieldPath, tuple[str, ...]]] = {
    (): ("apiVersion", "kind", "metadata", "spec"),
    ("metadata",): ("name", "namespace", "labels", "annotations"),
    ("spec",): ("unschedulable",),
}
_UNSCHEDULABLE: FieldPath = ("spec", "unschedulable")


def host_problems(host: Manifest) -> Iterator[Reason]:
    """Everything in the document that cannot be followed."""
    for path, known in _FIELDS.items():
        fields = _at(host.data, path)
        if not isinstance(fields, dict | None):
            yield _problem(host, path, f"{'.'.join(map(str, path))} must be a mapping")
            continue
        for key in fields or ():
            if key not in known:
                yield _problem(host, (*path, key), _unknown(path, key))
    if not isinstance(_at(host.data, _UNSCHEDULABLE), bool | None):
        yield _problem(host, _UNSCHEDULABLE, "spec.unschedulable must be true or false, without quotes")


def cordon_of(host: Manifest) -> Reason | None:
    """Why nothing may run on this host; None when it may. For a document without problems."""
    if not _at(host.data, _UNSCHEDULABLE):
        return None
    text = "the host is cordoned (spec.unschedulable): nothing runs on it until this is taken back"
    return Reason(ReasonCode.CORDONED, text, host.origin_of(_UNSCHEDULABLE))


def _unknown(path: FieldPath, key: str) -> str:
    name = ".".join((*map(str, path), key))
    if not path and key in _FIELDS[("spec",)]:
        return f"unknown field {name}; write it under spec"
    near = nearest(key, _FIELDS[path])
    hint = f"did you mean {near}?" if near else f"there are {', '.join(_FIELDS[path])}"
    return f"unknown field {name}; {hint}"


def _problem(host: Manifest, path: FieldPath, message: str) -> Reason:
    return Reason(ReasonCode.INVALID_HOST, message, host.origin_of(path))


def _at(value: Any, path: FieldPath) -> Any:
    for step in path:
        value = value.get(step) if isinstance(value, dict) else None
    return value
