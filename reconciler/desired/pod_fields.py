"""Fields and resources of a pod that its container refers to, as far as git and the host's name determine them.

Pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from reconciler.kserve.quantity import cpu_millis, memory_bytes

Document = Mapping[str, Any]
# Engines of a host listen on its loopback address alone, and share its network.
_ADDRESS = "127.0.0.1"
_SUBSCRIPTED = re.compile(r"metadata\.(labels|annotations)\['([^']*)'\]")
_HUGE_PAGES = "hugepages-"
_RESOURCES = ("cpu", "memory", "ephemeral-storage")


def variable_field(path: str, pod: Document, namespace: str, node: str) -> str | None:
    """The value of a `fieldRef` of a variable; None where git cannot tell, or there is no such field."""
    if path.startswith("status."):
        return _ADDRESS if path in ("status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs") else None
    if path == "spec.nodeName":
        return node
    if path == "spec.serviceAccountName":
        return str(pod.get("serviceAccountName") or "default")
    return _metadata(path, pod, namespace)


def file_field(path: str, pod: Document, namespace: str) -> str | None:
    """The same of a file: all labels or annotations may be in one, a line each."""
    if path in ("metadata.labels", "metadata.annotations"):
        texts = pod.get(path.removeprefix("metadata.")) or {}
        return "\n".join(f"{key}={json.dumps(str(texts[key]), ensure_ascii=False)}" for key in sorted(texts))
    return _metadata(path, pod, namespace)


def _metadata(path: str, pod: Document, namespace: str) -> str | None:
    if path == "metadata.namespace":
        return namespace
    match = _SUBSCRIPTED.fullmatch(path)
    return str((pod.get(match[1]) or {}).get(match[2], "")) if match else None


def resource_field(reference: Document, pod: Document, container: Document) -> str | None:
    """The value of a `resourceFieldRef`; `container` is the one that it means unless it names another.

    None for a limit that is not set: it would be what the machine has.
    """
    if not is_resource(asked := str(reference.get("resource"))):
        return None
    kind, _, name = asked.partition(".")
    resources = _meant(reference, pod, container).get("resources") or {}
    limits = resources.get("limits") or {}
    requests = {name: 0, **limits, **(resources.get("requests") or {})}
    given = (requests if kind == "requests" else limits).get(name)
    if given is None:
        return None
    read = cpu_millis if name == "cpu" else memory_bytes
    try:
        return str(-(-read(given) // (read(reference.get("divisor") or 0) or read(1))))
    except (ValueError, ArithmeticError):
        return None


def is_resource(asked: str) -> bool:
    """Can a pod request it, such as `limits.cpu`?"""
    kind, _, name = asked.partition(".")
    return kind in ("limits", "requests") and (name in _RESOURCES or name.startswith(_HUGE_PAGES))


def _meant(reference: Document, pod: Document, container: Document) -> Document:
    if not (name := reference.get("containerName")):
        return container
    return next((each for each in _containers(pod) if each.get("name") == name), {})


def _containers(pod: Document) -> Iterator[Document]:
    for key in ("containers", "initContainers"):
        yield from pod.get(key) or ()
