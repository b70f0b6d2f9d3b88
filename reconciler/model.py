"""The words that every stage speaks: frozen data, and nothing that decides.

Times are seconds since the epoch (`float`), durations are seconds, memory is bytes, CPU is thousandths of a core.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

# ---------------------------------------------------------------- names and places


@dataclass(frozen=True, slots=True, order=True)
class ServiceId:
    """One InferenceService."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, order=True)
class ReplicaId:
    """One running copy of a service. `serial` is `<first 8 of the digest at birth>-<number>`."""

    service: ServiceId
    serial: str

    def __str__(self) -> str:
        return f"{self.service.namespace}.{self.service.name}.{self.serial}"

    @classmethod
    def parse(cls, text: str) -> ReplicaId:
        """The inverse of `str()`. Raises ValueError."""
        namespace, name, serial = text.split(".")
        return cls(ServiceId(namespace, name), serial)


@dataclass(frozen=True, slots=True, order=True)
class Origin:
    """Where in git something was written."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Reason:
    """Why something is as it is. `code` is one CamelCase word that scripts can match."""

    code: str
    message: str
    origin: Origin | None = None

    def __str__(self) -> str:
        return f"{self.origin}: {self.message}" if self.origin else self.message


# ---------------------------------------------------------------- source → manifests


@dataclass(frozen=True, slots=True)
class File:
    """One file of a revision. `oid` is git's object id: equal ids are equal bytes."""

    path: str
    oid: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One revision of the source, read as an immutable set of files.

    `files` holds the YAML files under the paths that were asked for; `refused` those that may not be read (symlinks,
    too large, not a regular file) with the reason; `missing` those asked-for paths that the revision does not have.
    """

    revision: str
    files: tuple[File, ...]
    refused: tuple[Reason, ...] = ()
    missing: tuple[str, ...] = ()
    subject: str = ""
    committed_at: float = 0.0


# ---------------------------------------------------------------- desired


@dataclass(frozen=True, slots=True)
class Resources:
    """What one replica asks for. Kinds of accelerator other than nvidia.com/gpu stand in `other`."""

    gpus: int = 0
    cpu_millis: int = 0
    memory_bytes: int = 0
    other: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Mount:
    """A model's files: where from, and where the container expects them."""

    uri: str
    path: str = "/mnt/models"


@dataclass(frozen=True, slots=True)
class EnvVar:
    """One variable. `source` names a reference that a host cannot resolve from git alone (a secret key, a field)."""

    name: str
    value: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True)
class EffectiveSpec:
    """What runs, after runtime and service are merged. Its hash is the digest: equal digest, no restart needed."""

    image: str
    command: tuple[str, ...]
    args: tuple[str, ...]
    env: tuple[EnvVar, ...] = ()
    mounts: tuple[Mount, ...] = ()
    resources: Resources = Resources()


@dataclass(frozen=True, slots=True)
class Strategy:
    """How many replicas a rollout may add or miss. `recreate`: every old one goes before any new one comes."""

    max_surge: int
    max_unavailable: int
    recreate: bool = False
    explicit: bool = True


@dataclass(frozen=True, slots=True)
class Desired:
    """One service as git wants it on one target.

    `spec` is None when git's documents cannot be used: `problems` says why, and what runs is kept. `blocked` are
    reasons, known without asking the target, that it cannot start there; nothing starts and nothing stops.
    """

    id: ServiceId
    origin: Origin
    spec: EffectiveSpec | None
    digest: str
    replicas: int = 1
    strategy: Strategy | None = None
    canary_percent: int | None = None
    drain_timeout: float | None = None
    request_timeout: float | None = None
    argument_origins: tuple[Origin, ...] = ()
    problems: tuple[Reason, ...] = ()
    blocked: tuple[Reason, ...] = ()
    warnings: tuple[Reason, ...] = ()
    display_name: str = ""


@dataclass(frozen=True, slots=True)
class DesiredState:
    """All services of one target.

    `unreadable` are files (or path prefixes ending in `/`) that may name services but could not be read: what came
    from them is kept. `prunable` is False when the target's own file or folder is missing: nothing is pruned.
    """

    target: str
    revision: str
    services: tuple[Desired, ...]
    unreadable: tuple[Reason, ...] = ()
    prunable: bool = True
    notes: tuple[Reason, ...] = ()


# ---------------------------------------------------------------- observed


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU of a host."""

    uuid: str
    name: str = ""
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a host may give to replicas altogether, and the ports that are free for them right now."""

    cpu_millis: int
    memory_bytes: int
    gpus: tuple[Gpu, ...] = ()
    ports: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Lease:
    """What a replica holds for itself alone."""

    port: int
    gpus: tuple[str, ...] = ()


class Routed(StrEnum):
    """What the proxy answered about one replica."""

    ABSENT = "Absent"
    ACTIVE = "Active"
    DRAINING = "Draining"
    UNKNOWN = "Unknown"


@dataclass(frozen=True, slots=True)
class Replica:
    """One replica as the target saw it.

    `alive` is the main process; `leftovers` counts every other process, port, GPU allocation or shared-memory file
    that is still there although the main process is gone. `ready_now` is the probe's word (health, model list, one
    real token); `ready_at` is when that was first written down. `healthy` is None when nobody could tell.
    `in_flight` counts requests at the proxy and in the engine; None is unknown, never zero. `quiet_samples` counts
    consecutive observations of zero, taken while the proxy sent nothing new. `rebooted` means that the host restarted
    since the replica was started. `spawned` is False when it was written down but no process was ever seen.
    `last_words` is the end of the log of a replica that failed, `blame` the one line of it that a person needs.
    """

    id: ReplicaId
    digest: str
    spec: EffectiveSpec
    origin: Origin
    lease: Lease
    created_at: float
    parsed: str = ""
    alive: bool = True
    leftovers: int = 0
    exit_code: int | None = None
    ready_now: bool = False
    ready_at: float | None = None
    draining_at: float | None = None
    stopping_at: float | None = None
    healthy: bool | None = None
    routed: Routed = Routed.ABSENT
    in_flight: int | None = None
    quiet_samples: int = 0
    rebooted: bool = False
    spawned: bool = True
    last_words: tuple[str, ...] = ()
    blame: str = ""

    @property
    def service(self) -> ServiceId:
        return self.id.service


@dataclass(frozen=True, slots=True)
class Promoted:
    """The last spec of a service that proved itself, kept until its successor does."""

    digest: str
    spec: EffectiveSpec
    replicas: int
    origin: Origin
    revision: str
    at: float
    drain_timeout: float | None = None
    parsed: str = ""


@dataclass(frozen=True, slots=True)
class Preflight:
    """The installed engine's own verdict on one spec's arguments.

    `parsed` is a canonical text of what the engine understood: equal texts mean the same arguments. `gpus` is
    tp·pp·dp. `reasons` are empty when the arguments are accepted.
    """

    parsed: str
    gpus: int = 1
    reasons: tuple[Reason, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def accepted(self) -> bool:
        return not self.reasons


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One replica behind the proxy."""

    replica: ReplicaId
    port: int
    draining: bool = False


@dataclass(frozen=True, slots=True)
class ServiceRoute:
    """How requests reach one service. `canary` gets `canary_percent` of them while it has an endpoint."""

    service: ServiceId
    stable: tuple[Endpoint, ...] = ()
    canary: tuple[Endpoint, ...] = ()
    canary_percent: int = 0
    request_timeout: float | None = None


@dataclass(frozen=True, slots=True)
class Owned:
    """What we remember of one service on a target: the fence around pruning.

    `crashes` and `conflicts` are times: when a proven replica died, and when any one died because a port was taken.
    """

    id: ServiceId
    origin: Origin
    promoted: Promoted | None = None
    crashes: tuple[float, ...] = ()
    conflicts: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Quarantine:
    """A digest that failed; not tried again until git changes it."""

    service: ServiceId
    digest: str
    reason: Reason
    revision: str
    at: float
    last_words: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Observed:
    """What one target answered, at one time.

    `preflights` holds the verdicts known so far by digest; `preflighting` the digests being asked about now.
    `routes` is what the proxy was last told; `proxy_ready` whether it answers at all.
    """

    target: str
    at: float
    replicas: tuple[Replica, ...]
    capacity: Capacity
    owned: Mapping[ServiceId, Owned] = field(default_factory=dict)
    routes: Mapping[ServiceId, ServiceRoute] = field(default_factory=dict)
    proxy_ready: bool = True
    preflights: Mapping[str, Preflight] = field(default_factory=dict)
    preflighting: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Unreachable:
    """A target that did not answer. Nothing is planned for it."""

    target: str
    at: float
    reason: str


# ---------------------------------------------------------------- actions: a closed union; every one says why


@dataclass(frozen=True, slots=True)
class EnsureProxy:
    """Start the proxy, or start it again."""

    reason: str


@dataclass(frozen=True, slots=True)
class AskPreflight:
    """Begin to ask the installed engine about a spec; a later pass observes the verdict."""

    service: ServiceId
    digest: str
    spec: EffectiveSpec
    origin: Origin
    argument_origins: tuple[Origin, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Start:
    """Start one replica with these leases."""

    replica: ReplicaId
    digest: str
    spec: EffectiveSpec
    origin: Origin
    lease: Lease
    drain_timeout: float
    parsed: str
    revision: str
    reason: str


@dataclass(frozen=True, slots=True)
class Admit:
    """Write down that a replica answered a real completion: from now on it is ready."""

    replica: ReplicaId
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

    `conflict`: it died, proven or not, because a port was taken. That is excused, but not for ever.
    """

    replica: ReplicaId
    at: float
    reason: str
    conflict: bool = False


@dataclass(frozen=True, slots=True)
class Reject:
    """Quarantine a digest."""

    quarantine: Quarantine
    reason: str


@dataclass(frozen=True, slots=True)
class Own:
    """Write down that a service is ours, before anything of it starts."""

    service: ServiceId
    origin: Origin
    reason: str


@dataclass(frozen=True, slots=True)
class Forget:
    """Forget a service of which nothing is left."""

    service: ServiceId
    reason: str


Action = (
    EnsureProxy
    | AskPreflight
    | Start
    | Admit
    | Relabel
    | Drain
    | Undrain
    | Stop
    | Remove
    | SetRoutes
    | Promote
    | NoteCrash
    | Reject
    | Own
    | Forget
)


# ---------------------------------------------------------------- plan and its results


class Sync(StrEnum):
    """About spec: does what runs equal what git says?"""

    SYNCED = "Synced"
    OUT_OF_SYNC = "OutOfSync"
    UNKNOWN = "Unknown"


class Phase(StrEnum):
    """About serving."""

    HEALTHY = "Healthy"
    PROGRESSING = "Progressing"
    DEGRADED = "Degraded"
    SUSPENDED = "Suspended"
    MISSING = "Missing"
    UNKNOWN = "Unknown"


@dataclass(frozen=True, slots=True)
class Health:
    """How a service serves, and why we say so."""

    phase: Phase
    reason: Reason


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the plan says of one service.

    `step` is what happens to it now, in one line. `strategy` says how a rollout will go and why. `blocked` lists all
    reasons that keep it from starting. `rejected` is the quarantine that keeps git's digest from being tried.
    """

    service: ServiceId
    sync: Sync
    health: Health
    step: str = ""
    strategy: str = ""
    blocked: tuple[Reason, ...] = ()
    rejected: Quarantine | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """Ordered outcome of comparing.

    `look_again_at` is when time alone may change the answer; None: only events. `looks` says so by service.
    """

    target: str
    revision: str
    at: float
    actions: tuple[Action, ...] = ()
    verdicts: Mapping[ServiceId, Verdict] = field(default_factory=dict)
    look_again_at: float | None = None
    notes: tuple[Reason, ...] = ()
    looks: Mapping[ServiceId, float] = field(default_factory=dict)


class Outcome(StrEnum):
    """What became of an action."""

    DONE = "Done"
    FAILED = "Failed"
    SKIPPED = "Skipped"


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one action. `error` says why it failed or was skipped."""

    action: Action
    outcome: Outcome
    error: str = ""
    retryable: bool = True
    seconds: float = 0.0
