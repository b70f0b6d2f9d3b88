"""What a cluster answered, what a plan says of its objects, and the actions of its passes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from reconciler.model.health import Health, Sync
from reconciler.model.names import NO_ORIGIN, NoOrigin, Origin, Reason, ServiceId
from reconciler.model.objects import DesiredObject, KubeObject, ObjectId
from reconciler.model.observed import Quarantine


@dataclass(frozen=True, slots=True)
class PodFacts:
    """One pod of a service. `since` is when it got into this phase, in seconds since the epoch.

    `newest`: it is of what was applied last. `started_at` is when its server's container began to run, `ready_at` when
    it got ready, `draining_at` when it was told to end; each None where it did not, or nobody says. `restarts` counts
    how often its containers were started again.
    """

    name: str
    phase: str
    node: str = ""
    ready: bool = False
    gpus: int = 0
    since: float | None = None
    message: str = ""
    newest: bool = False
    created_at: float | None = None
    started_at: float | None = None
    ready_at: float | None = None
    draining_at: float | None = None
    restarts: int = 0


@dataclass(frozen=True, slots=True)
class ProvenVersion:
    """A version that proved itself, at which revision and when."""

    digest: str
    revision: str
    at: float


@dataclass(frozen=True, slots=True)
class ServiceFacts:
    """What runs of a service on a cluster. `live_digest` is that of the last good one, while that is what serves, and
    `live_revision` the one at which it proved itself.

    `phase` is that of the newest pod that has come least far. `token_fault` is why no token comes back from what is
    ready and has not proved itself; empty: one does; None: it was not asked for one.
    """

    url: str = ""
    ready: int = 0
    desired: int = 0
    gpus: int = 0
    live_digest: str = ""
    live_revision: str = ""
    origin: Origin | NoOrigin = NO_ORIGIN
    pods: tuple[PodFacts, ...] = ()
    status: Mapping[str, Any] = field(default_factory=dict)
    promoted: ProvenVersion | None = None
    phase: str = ""
    token_fault: str | None = None


@dataclass(frozen=True, slots=True)
class NodeGpus:
    """GPUs of one node: what it offers, and what pods there request, whoever owns them."""

    total: int
    requested: int = 0


@dataclass(frozen=True, slots=True)
class ClusterView:
    """What people are shown of a cluster. `gpus` counts what its nodes offer, `free_gpus` what no pod requests.
    `node_gpus` tells of each node that offers any.

    `quarantines` are those that are on record in the cluster, whichever daemon wrote them there.
    """

    target: str
    at: float
    version: str = ""
    gpus: int | None = None
    free_gpus: int | None = None
    node_gpus: Mapping[str, NodeGpus] = field(default_factory=dict)
    services: Mapping[ServiceId, ServiceFacts] = field(default_factory=dict)
    quarantines: tuple[Quarantine, ...] = ()


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
    """Apply an object as git wants it, with what we add to it. `force`: take over fields of others.

    `wave`: objects of a later wave wait until those of earlier ones are applied. `additions` are what we added: only
    the cluster itself looks into them.
    """

    wanted: DesiredObject
    reason: str
    force: bool = False
    wave: int = 0
    additions: object = field(default=None, hash=False, repr=False)

    @property
    def object(self) -> ObjectId:
        return self.wanted.id

    @property
    def service(self) -> ServiceId | None:
        return self.wanted.service


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
    """Record what is ours, before it is applied and once it is gone. `body` is the object that holds it."""

    body: KubeObject = field(hash=False, repr=False)
    reason: str


@dataclass(frozen=True, slots=True)
class KeepLastGood:
    """Record that a service proved itself as it is. `record` is the object that holds it."""

    service: ServiceId
    digest: str
    record: KubeObject = field(hash=False, repr=False)
    reason: str


@dataclass(frozen=True, slots=True)
class NoteTry:
    """Record that a version failed because of its cluster: it is tried again later. `record` is the object for it."""

    service: ServiceId
    digest: str
    record: KubeObject = field(hash=False, repr=False)
    reason: str


@dataclass(frozen=True, slots=True)
class KeepQuarantines:
    """Record which versions of a service failed, for whichever daemon acts next. `record` is the object for it."""

    service: ServiceId
    record: KubeObject = field(hash=False, repr=False)
    reason: str


ClusterAction = ApplyObject | StopService | DeleteObject | WriteInventory | KeepLastGood | KeepQuarantines | NoteTry
"""What a cluster performs, beside preflights."""
