"""Objects of a Kubernetes cluster: what they are called, and how git wants them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from reconciler.model.names import Origin, Reason, ServiceId

LineTree: TypeAlias = "int | tuple[int, tuple[LineTree, ...]]"
"""The line of a value, and those of its children in their order; a value without children has its line alone."""

KubeObject = Mapping[str, Any]
"""One object as the API server writes it in JSON. It is shared: never change it."""


@dataclass(frozen=True, slots=True, order=True)
class ObjectId:
    """One object of a cluster, whatever version of its kind it is read in. `group` is "" for the core's kinds, and
    `namespace` is "" where the kind has none."""

    group: str
    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        """`InferenceService.serving.kserve.io default/tiny`."""
        kind = f"{self.kind}.{self.group}" if self.group else self.kind
        return f"{kind} {self.namespace}/{self.name}" if self.namespace else f"{kind} {self.name}"

    @classmethod
    def of(cls, body: KubeObject) -> ObjectId:
        """The name of an object that has an apiVersion, a kind and a name."""
        group, _, _ = body["apiVersion"].rpartition("/")
        metadata = body["metadata"]
        return cls(group, body["kind"], metadata.get("namespace") or "", metadata["name"])


@dataclass(frozen=True, slots=True)
class Rendered:
    """What KServe would make of an InferenceService, as far as git tells: its pod, and its deployment mode.

    `runtime` is the runtime that it gets, if it gets one.
    """

    pod: KubeObject
    mode: str
    runtime: ObjectId | None = None

    def container(self, name: str) -> KubeObject | None:
        """The pod's container of this name."""
        return next((each for each in self.pod.get("containers") or () if each.get("name") == name), None)


@dataclass(frozen=True, slots=True)
class DesiredObject:
    """One object as git wants it on one cluster.

    `body` is what would be applied, without status, and `hash` its hash. `lines` are those of `origin.file` where it is
    written. `service` is the InferenceService that it is. Of a Secret that SOPS encrypted, the data is not in `body`:
    it stands in the store of Secrets (`is_encrypted`). `rendered` is None where git cannot tell. `refused`: why it may
    not be applied, as a Secret that git shows to everyone.
    """

    id: ObjectId
    origin: Origin
    body: KubeObject = field(hash=False)
    hash: str
    lines: LineTree = field(default=1, hash=False, compare=False, repr=False)
    service: ServiceId | None = None
    is_encrypted: bool = False
    refused: Reason | None = field(default=None, hash=False)
    rendered: Rendered | None = field(default=None, hash=False, compare=False, repr=False)

    @property
    def api_version(self) -> str:
        return str(self.body["apiVersion"])

    def origin_of(self, path: str) -> Origin:
        """The line of a field, or of the nearest one around it that git writes: `spec.containers.0.image`."""
        value: Any = self.body
        lines, parts = self.lines, path.split(".") if path else []
        while parts and isinstance(lines, tuple) and (found := _child(value, parts)) is not None:
            index, key, parts = found
            if index >= len(lines[1]):
                break
            value, lines = value[key], lines[1][index]
        return Origin(self.origin.file, lines[0] if isinstance(lines, tuple) else lines)


def _child(value: Any, parts: list[str]) -> tuple[int, str | int, list[str]] | None:
    """Place, key and rest of a path's first field. Keys of labels and annotations have dots themselves."""
    if isinstance(value, list):
        index = int(parts[0]) if parts[0].isdigit() else len(value)
        return (index, index, parts[1:]) if index < len(value) else None
    if isinstance(value, dict):
        for length in range(1, len(parts) + 1):
            if (key := ".".join(parts[:length])) in value:
                return list(value).index(key), key, parts[length:]
    return None
