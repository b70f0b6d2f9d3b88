"""Objects of a Kubernetes cluster: what they are called, and how git wants them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from reconciler.model.names import Origin, ServiceId

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
class DesiredObject:
    """One object as git wants it on one cluster.

    `body` is what would be applied, without status, and `hash` its hash. `lines` are the lines of `origin.file` where
    its fields are written, by path: `spec.predictor.minReplicas`, `spec.containers.0.image`. `service` is the
    InferenceService that it is.
    """

    id: ObjectId
    origin: Origin
    body: KubeObject = field(hash=False)
    hash: str
    lines: Mapping[str, int] = field(default_factory=dict, hash=False, compare=False)
    service: ServiceId | None = None

    @property
    def api_version(self) -> str:
        return str(self.body["apiVersion"])

    def origin_of(self, path: str) -> Origin:
        """The line of a field, or of the nearest one around it that git writes."""
        while path:
            if (line := self.lines.get(path)) is not None:
                return Origin(self.origin.file, line)
            path, _, _ = path.rpartition(".")
        return self.origin
