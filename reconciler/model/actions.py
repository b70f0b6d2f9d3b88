"""The actions of a pass: a closed union. Every action has a reason."""

from __future__ import annotations

import re
from dataclasses import dataclass

from reconciler.model.cluster import (
    ApplyObject,
    ClusterAction,
    DeleteObject,
    KeepLastGood,
    KeepQuarantines,
    NoteTry,
    StopService,
    WriteInventory,
)
from reconciler.model.desired import EffectiveSpec, Mount
from reconciler.model.names import Origin, ReplicaId, ServiceId
from reconciler.model.observed import Lease, Promoted, Quarantine, ServiceRoute, Translation


@dataclass(frozen=True, slots=True)
class EnsureProxy:
    """Start the proxy, or start it again. `replace`: end the one that runs, with every request in it."""

    reason: str
    replace: bool = False


@dataclass(frozen=True, slots=True)
class Stage:
    """Begin to fetch a model's files, or go on with it; a later pass observes how far they are."""

    service: ServiceId
    key: str
    mount: Mount
    reason: str


@dataclass(frozen=True, slots=True)
class StageImage:
    """Begin to pull an image; a later pass observes how far it is."""

    service: ServiceId
    image: str
    reason: str


@dataclass(frozen=True, slots=True)
class Unstage:
    """Delete what was fetched of a model that nothing needs any more."""

    key: str
    reason: str


@dataclass(frozen=True, slots=True)
class AskPreflight:
    """Begin to ask the installed engine about a spec; a later pass observes the verdict."""

    service: ServiceId
    digest: str
    spec: EffectiveSpec
    origin: Origin
    reason: str


@dataclass(frozen=True, slots=True)
class Start:
    """Start one replica with these leases. `translation`: as the config made it before; empty: as it says now."""

    replica: ReplicaId
    digest: str
    spec: EffectiveSpec
    origin: Origin
    lease: Lease
    drain_timeout: float
    parsed: str
    revision: str
    reason: str
    translation: Translation = ()


@dataclass(frozen=True, slots=True)
class MarkReady:
    """Write down that a replica answered a real completion: from now on it is ready."""

    replica: ReplicaId
    reason: str


@dataclass(frozen=True, slots=True)
class Reattach:
    """Go on with a replica whose process is not the one that we started. `serves`: it need not get ready again."""

    replica: ReplicaId
    serves: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Relabel:
    """Give a running replica a new digest: its arguments were only written differently."""

    replica: ReplicaId
    digest: str
    spec: EffectiveSpec
    origin: Origin
    reason: str


@dataclass(frozen=True, slots=True)
class Drain:
    """No new requests; let the running ones finish."""

    replica: ReplicaId
    reason: str


@dataclass(frozen=True, slots=True)
class Undrain:
    """A draining replica is wanted again."""

    replica: ReplicaId
    reason: str


@dataclass(frozen=True, slots=True)
class Stop:
    """End a replica. `force` kills whatever is left of it. `cut` requests were still running: they are lost."""

    replica: ReplicaId
    reason: str
    force: bool = False
    cut: int = 0


@dataclass(frozen=True, slots=True)
class Remove:
    """Forget a replica of which nothing is left: record, logs, leases."""

    replica: ReplicaId
    reason: str


@dataclass(frozen=True, slots=True)
class SetRoutes:
    """Tell the proxy all routes there are. `changed` names the services whose route differs from before."""

    routes: tuple[ServiceRoute, ...]
    changed: tuple[ServiceId, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Promote:
    """Write down that a spec proved itself."""

    service: ServiceId
    promoted: Promoted
    reason: str


@dataclass(frozen=True, slots=True)
class NoteCrash:
    """Write down that a promoted replica died, so that its restarts back off.

    `run` says which run of it that was: the same death noted again counts once. `conflict`: it died, proven or not,
    because a port was taken. That is excused, but not forever.
    """

    replica: ReplicaId
    run: str
    at: float
    reason: str
    conflict: bool = False


@dataclass(frozen=True, slots=True)
class Reject:
    """Quarantine a digest."""

    quarantine: Quarantine
    reason: str


@dataclass(frozen=True, slots=True)
class NoteFailure:
    """Write down that a replica on trial failed because of its host: its digest is tried again later."""

    replica: ReplicaId
    digest: str
    run: str
    reason: str


@dataclass(frozen=True, slots=True)
class Repair:
    """Restore what was changed manually of how a replica is kept; its process is not touched."""

    replica: ReplicaId
    reason: str


@dataclass(frozen=True, slots=True)
class TakeOwnership:
    """Record that a service belongs to this target, before anything of it starts."""

    service: ServiceId
    origin: Origin
    reason: str


@dataclass(frozen=True, slots=True)
class Forget:
    """Forget a service of which nothing is left."""

    service: ServiceId
    reason: str


HostAction = (
    EnsureProxy
    | Stage
    | StageImage
    | Unstage
    | AskPreflight
    | Start
    | MarkReady
    | Reattach
    | Relabel
    | Drain
    | Undrain
    | Repair
    | Stop
    | Remove
    | SetRoutes
    | Promote
    | NoteCrash
    | TakeOwnership
    | Forget
)
"""What a host performs."""

TargetAction = HostAction | ClusterAction
"""What a target performs."""

Action = TargetAction | Reject | NoteFailure
"""The others are about what the daemon remembers of digests that failed."""


def kind_name(kind: type[Action]) -> str:
    """`AskPreflight` → `ask_preflight`: the name in logs, metrics and documents."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()


def action_name(action: Action) -> str:
    """The name of its kind."""
    return kind_name(type(action))


def service_of(action: Action) -> ServiceId | None:
    """The one service that an action is about; None for the proxy, its routes, and files of no service."""
    match action:
        case EnsureProxy() | SetRoutes() | Unstage() | WriteInventory():
            return None
        case Reject():
            return action.quarantine.service
        case Stage() | StageImage() | AskPreflight() | Promote() | TakeOwnership() | Forget():
            return action.service
        case ApplyObject() | DeleteObject() | StopService() | KeepLastGood() | KeepQuarantines() | NoteTry():
            return action.service
        case _:
            return action.replica.service
