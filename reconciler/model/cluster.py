"""What a cluster answered, what a plan says of its objects, and the actions of its passes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from reconciler.model.health import Health, Sync
from reconciler.model.names import NO_ORIGIN, NoOrigin, Origin, Reason, ServiceId
from reconciler.model.objects import KubeObject, ObjectId


@dataclass(frozen=True, slots=True)
class PodFacts:
    """One pod of a service. `since` is when it got into this phase, in seconds since the epoch."""

    name: str
    phase: str
    node: str = ""
    ready: bool = False
    gpus: int = 0
    since: float | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class ServiceFacts:
    """What runs of a service on a cluster. `live_digest` is that of the last good one, while that is what serves."""

    url: str = ""
    ready: int = 0
    desired: int = 0
    gpus: int = 0
    live_digest: str = ""
    origin: Origin | NoOrigin = NO_ORIGIN
    pods: tuple[PodFacts, ...] = ()
    status: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ClusterView:
    """What people are shown of a cluster. `gpus` counts what its nodes offer, `free_gpus` what no pod requests."""

    target: str
    at: float
    version: str = ""
    gpus: int | None = None
    free_gpus: int | None = None
    services: Mapping[ServiceId, ServiceFacts] = field(default_factory=dict)


class ObjectChange(StrEnum):
    """What happens to an object."""

    NONE = "none"
    CREATE = "create"
    CHANGE = "change"
    REPAIR = "repair"
    TAKE_OVER = "take over"
    DELETE = "delete"
    KEEP = "keep"
    WAIT = "wait"


@dataclass(frozen=True, slots=True)
class ObjectPlan:
    """What the plan says of one object. `lines` are the differences, without the values of Secrets."""

    object: ObjectId
    sync: Sync
    health: Health
    change: ObjectChange = ObjectChange.NONE
    origin: Origin | NoOrigin = NO_ORIGIN
    why: str = ""
    lines: tuple[str, ...] = ()
    reasons: tuple[Reason, ...] = ()
    service: ServiceId | None = None


# ---------------------------------------------------------------- actions


@dataclass(frozen=True, slots=True)
class ApplyObject:
    """Apply an object as git wants it, and what we add. `hash` is that of git's body, `force`: take fields over.

    `wave`: objects of a later wave wait until those of earlier ones are applied.
    """

    object: ObjectId
    body: KubeObject = field(hash=False, repr=False)
    hash: str
    origin: Origin | NoOrigin
    reason: str
    force: bool = False
    wave: int = 0
    service: ServiceId | None = None
    is_encrypted: bool = False


@dataclass(frozen=True, slots=True)
class StopService:
    """Have KServe stop the pods of a service, so that they drain before it is deleted."""

    service: ServiceId
    object: ObjectId
    uid: str
    reason: str


@dataclass(frozen=True, slots=True)
class DeleteObject:
    """Delete the object with this UID, and no other of its name."""

    object: ObjectId
    uid: str
    reason: str
    service: ServiceId | None = None


@dataclass(frozen=True, slots=True)
class WriteInventory:
    """Record what is ours. `adds` are about to be applied, `drops` are gone."""

    adds: tuple[tuple[ObjectId, Origin | NoOrigin], ...]
    drops: tuple[ObjectId, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class KeepLastGood:
    """Record that a service proved itself as it is."""

    service: ServiceId
    digest: str
    revision: str
    body: KubeObject = field(hash=False, repr=False)
    reason: str


ClusterAction = ApplyObject | StopService | DeleteObject | WriteInventory | KeepLastGood
"""What a cluster performs, beside preflights."""
