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
    ("spec",): ("drain", "unschedulable"),
}
_DRAIN: FieldPath = ("spec", "drain")
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
    for path in (_DRAIN, _UNSCHEDULABLE):
        if not isinstance(_at(host.data, path), bool | None):
            yield _problem(host, path, f"{'.'.join(map(str, path))} must be true or false, without quotes")


def drain_of(host: Manifest) -> Reason | None:
    """Why nothing may run on this host; None when something may. For a document without problems."""
    if not _at(host.data, _DRAIN):
        return None
    text = "the host is drained (spec.drain): nothing runs on it until this is removed"
    return Reason(ReasonCode.DRAINED, text, host.origin_of(_DRAIN))


def cordon_of(host: Manifest) -> Reason | None:
    """Why nothing new may start on this host; None when it may. For a document without problems."""
    if not _at(host.data, _UNSCHEDULABLE):
        return None
    text = "the host is cordoned (spec.unschedulable): what is promoted is kept running, nothing new starts"
    return Reason(ReasonCode.CORDONED, text, host.origin_of(_UNSCHEDULABLE))


def host_warnings(host: Manifest) -> Iterator[Reason]:
    """What was understood in another way by an older version."""
    if _at(host.data, _UNSCHEDULABLE) and _at(host.data, _DRAIN) is None:
        text = (
            "spec.unschedulable does not drain the host any more, as it did in older versions: what is promoted keeps "
            "running, nothing new starts; add `drain: true` to drain it, or `drain: false` if this is what you want"
        )
        yield Reason(ReasonCode.NO_LONGER_DRAINS, text, host.origin_of(_UNSCHEDULABLE))


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
