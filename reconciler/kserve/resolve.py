"""One InferenceService in the tree it came from → what KServe would run for it. Pure: the entry point of this package."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Issue:
    """Something wrong or worth saying. `reason` is one CamelCase word; `path` is the field at fault where known."""

    reason: str
    message: str
    path: str = ""


@dataclass(frozen=True, slots=True)
class RuntimeRef:
    """The runtime that was chosen. `namespace` is empty for a ClusterServingRuntime."""

    kind: str
    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class Storage:
    """One model source as KServe's storage initializer gets it. `env` are the container's env entries, as documents."""

    uri: str
    mount_path: str = "/mnt/models"
    read_only: bool = True
    env: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Resolved:
    """What KServe makes of one service. A field that could not be computed is empty; `errors` say why.

    `argument_sources` names for each argument of kserve-container the document ("runtime" or "service") and the
    index in that document's own list of arguments.
    """

    defaulted: Mapping[str, Any]
    runtime: RuntimeRef | None = None
    candidates: tuple[str, ...] = ()
    protocol: str = ""
    deployment_mode: str = ""
    model_name: str = ""
    pod: Mapping[str, Any] = field(default_factory=dict)
    storage: tuple[Storage, ...] = ()
    url: str = ""
    model_status: Mapping[str, Any] = field(default_factory=dict)
    errors: tuple[Issue, ...] = ()
    warnings: tuple[Issue, ...] = ()
    argument_sources: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class World:
    """Everything of one tree that KServe would see beside the service itself. Built once per tree."""

    default_namespace: str = "default"

    @classmethod
    def build(
        cls,
        documents: Iterable[Mapping[str, Any]],
        *,
        default_namespace: str = "default",
        default_mode: str | None = None,
    ) -> World:
        """Sort plain documents into what the rules look up. `default_mode` applies where no ConfigMap says another."""
        raise NotImplementedError


def resolve(service: Mapping[str, Any], world: World) -> Resolved:
    """Never raises for bad input: `errors` say what is wrong."""
    raise NotImplementedError
