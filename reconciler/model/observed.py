"""What a target answered, at one time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from reconciler.model.desired import GPU, MIG, EffectiveSpec
from reconciler.model.fit import Fit
from reconciler.model.names import Bug, Origin, Reason, ReplicaId, ServiceId

Translation = tuple[tuple[str, str], ...]
"""What the config made of a spec: pairs of a key of the config and its value, in order. Empty: not known."""

Address = int | str
"""Where a replica listens: a TCP port of the loopback address, or the path of a Unix socket."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU of a host, or one MIG device: the part of a GPU that its `profile` describes (`1g.10gb`).

    `parent` is the UUID of the GPU that it is a part of.
    """

    uuid: str
    name: str = ""
    memory_bytes: int = 0
    profile: str = ""
    parent: str = ""

    @property
    def kind(self) -> str:
        """What a manifest asks for to get it. A resource's name holds no `+`."""
        return f"{MIG}{self.profile.replace('+', '.')}" if self.profile else GPU


@dataclass(frozen=True, slots=True)
class ForeignProcess:
    """A process of no replica that has memory of a GPU; `memory_bytes` is None where the driver does not say."""

    pid: int
    name: str
    memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class GpuUse:
    """How much of a GPU's memory is free right now, of what programs may use. `fault`: it cannot be used at all."""

    usable_bytes: int
    free_bytes: int
    strangers: tuple[ForeignProcess, ...] = ()
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a host may give to replicas altogether, and the ports that no replica has; those in use by others come last.

    `gpu_use` is by UUID of the GPU; it is empty when it was not asked for, or is unknown.
    """

    cpu_millis: int
    memory_bytes: int
    gpus: tuple[Gpu, ...] = ()
    ports: tuple[int, ...] = ()
    gpu_use: Mapping[str, GpuUse] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Lease:
    """What a replica holds: a port and whole GPUs for itself alone, or its share of the one GPU that is named.

    The port is its own even where it listens on a Unix socket, and so uses no port.
    """

    port: int
    gpus: tuple[str, ...] = ()


class Routed(StrEnum):
    """What the proxy answered about one replica."""

    ABSENT = "Absent"
    ACTIVE = "Active"
    DRAINING = "Draining"
    UNKNOWN = "Unknown"


class ProxyBreak(StrEnum):
    """What only another process of the proxy cures."""

    NONE = ""
    HUNG = "Hung"  # it answers no request
    DEAF = "Deaf"  # it serves, but does not take changes any more


class Silence(StrEnum):
    """Whether a replica that served still does anything."""

    NONE = ""
    SILENT = "Silent"  # in doubt: others get its requests, if there are others
    HUNG = "Hung"  # silent for so long that it is replaced


class Restart(StrEnum):
    """Why a replica's process is, or will soon be, another one than we started."""

    ENDING = "stopped or restarted manually"  # its process was asked to end, or the next one is about to start
    BY_HAND = "restarted manually"
    CRASHED = "crashed, and started again without us"


@dataclass(frozen=True, slots=True)
class Replica:
    """One replica as the target saw it.

    `alive` is the main process; `leftovers` counts every other process, port, GPU allocation or shared-memory file
    that still exists although the main process has ended. `ready_now` is the probe's result (health, model list, one
    real token); `ready_at` is when that was first recorded. `healthy` is None when unknown.
    `releasing`: nothing of it is left but memory of its GPUs, which the driver has not given back yet.
    `in_flight` counts requests at the proxy and in the engine; None is unknown, never zero. `quiet_samples` counts
    consecutive observations of zero, taken while the proxy sent nothing new. `rebooted` means that the host restarted
    since the replica was started. `spawned` is False when it was written down but no process was ever seen.
    `last_words` is the end of the log of a replica that failed, `blame` the one line of it that a person needs.
    `drift` says what was changed manually of how it is kept, though it keeps running, or that it was stopped manually;
    empty: nothing. `run` names this run of it: another process, another name. `restarted` is set until it is decided
    what that means; `again` says why it has to get ready once more, until it is. `image` is the ID of the local image
    that it runs in; empty: an interpreter of the host replaces it. `silent_why` is the evidence for `silence`.
    `watched_since` is when its time to get ready began to count, if that is later than its start.
    `at_proxy` counts requests at the proxy alone, `most_in_flight` the most that ran at once while it drained.
    `socket` is the path of the Unix socket that it listens on; empty: it listens on its port. `stranger` says who else
    has that port; then it is not healthy.
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
    releasing: bool = False
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
    drift: str = ""
    run: str = ""
    restarted: Restart | None = None
    again: str = ""
    image: str = ""
    translation: Translation = ()
    silence: Silence = Silence.NONE
    silent_why: str = ""
    at_proxy: int | None = None
    most_in_flight: int = 0
    watched_since: float = 0.0
    socket: str = ""
    stranger: str = ""

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
    translation: Translation = ()


@dataclass(frozen=True, slots=True)
class Preflight:
    """The installed engine's own verdict on one spec's arguments.

    `parsed` is a canonical text of what the engine understood: equal texts mean the same arguments. `gpus` is
    tp·pp·dp. `reasons` are empty when the arguments are accepted. `fit` says whether it fits in memory there.
    """

    parsed: str
    gpus: int = 1
    reasons: tuple[Reason, ...] = ()
    warnings: tuple[str, ...] = ()
    fit: Fit | None = None

    @property
    def accepted(self) -> bool:
        return not self.reasons


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One replica behind the proxy. `tls`: it ends TLS itself. It listens on `socket`; empty: on its port.

    `grpc`: it speaks gRPC there, and no HTTP/1. `grpc_port` is where it speaks gRPC in addition; 0: nowhere.
    """

    replica: ReplicaId
    port: int
    draining: bool = False
    tls: bool = False
    socket: str = ""
    grpc: bool = False
    grpc_port: int = 0

    @property
    def takes_grpc(self) -> bool:
        return self.grpc or self.grpc_port > 0

    @property
    def address(self) -> Address:
        return self.socket or self.port


@dataclass(frozen=True, slots=True)
class ServiceRoute:
    """How requests reach one service. `canary` gets `canary_percent` of them while it has an endpoint.

    `guarded`: only requests that the engine asks a key for are let through. `open_paths` are let through as well, and
    what is below them. `passthrough`: TLS for the service's host
    name is not ended by the proxy, but handed to a replica as it is. `left_at`: when the service left this host; its
    names go on for a while. `is_new`: nothing of it ever served here, so that names it shares stay with others.
    `model_names` are names in addition to its own that all of `stable` answer to, `canary_names` those of all of
    `canary`.
    `grpc` and `http`: what its replicas speak, or will.
    """

    service: ServiceId
    stable: tuple[Endpoint, ...] = ()
    canary: tuple[Endpoint, ...] = ()
    canary_percent: int = 0
    request_timeout: float | None = None
    guarded: bool = False
    passthrough: bool = False
    left_at: float | None = None
    open_paths: tuple[str, ...] = ()
    is_new: bool = False
    model_names: tuple[str, ...] = ()
    canary_names: tuple[str, ...] = ()
    grpc: bool = False
    http: bool = True

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        return (*self.stable, *self.canary)

    @property
    def takes_grpc(self) -> bool:
        return self.grpc or any(each.takes_grpc for each in self.endpoints)

    @property
    def takes_http(self) -> bool:
        return self.http or any(not each.grpc for each in self.endpoints)


@dataclass(frozen=True, slots=True)
class Owned:
    """What we remember of one service on a target: the fence around pruning.

    `restart` says when a restart was asked for last, and by whom. `crashes` and `conflicts` are times: when a proven
    replica died, and when any one died because its port or its GPUs' memory was taken. `counted`
    names the runs of replicas whose deaths are among these.
    """

    id: ServiceId
    origin: Origin
    promoted: Promoted | None = None
    crashes: tuple[float, ...] = ()
    conflicts: tuple[float, ...] = ()
    counted: tuple[str, ...] = ()
    restart: str = ""
    restarted_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Quarantine:
    """A digest that failed; not tried again until git changes it."""

    service: ServiceId
    digest: str
    reason: Reason
    revision: str
    at: float
    last_words: tuple[str, ...] = ()


class Fetch(StrEnum):
    """How it stands with a model's files, or with an image."""

    RUNNING = "Running"
    STAGED = "Staged"
    FAILED = "Failed"
    REFUSED = "Refused"  # the source gave an answer, and it was no


@dataclass(frozen=True, slots=True)
class Staging:
    """How far one model's files, or one image, are.

    `done` and `total` are bytes; `total` is None where the source does not tell. `failures`
    counts failures in a row without a new byte between them, `at` is when the last one was.
    """

    fetch: Fetch
    done: int = 0
    total: int | None = None
    failures: int = 0
    at: float = 0.0
    reason: Reason | None = None


@dataclass(frozen=True, slots=True)
class Outdated:
    """A wanted digest of which something is there that the config would make otherwise today: `translation`.

    `restorable`: what was promoted before could be started once more, just as it was.
    """

    translation: Translation
    restorable: bool


@dataclass(frozen=True, slots=True)
class Observed:
    """What one target answered, at one time.

    `preflights` holds the verdicts known so far by digest; `preflighting` the digests being asked about now, or not due
    to be asked about again. `blockers` says by digest why this host cannot start it right now.
    `routes` is what the proxy was last given; `proxy_ready` whether it responds at all, and `proxy_break` why it does
    not begin to by itself.
    `staging` tells of every model that was begun to be fetched, by its key; `images` of every image, by its name, that
    services here need and that has to be pulled first; None: no pull was begun. `outdated` names wanted digests that
    the config turns into something else now than when what there is of them was started. `faulty` are services that
    raised while being observed, each with its reason; `bugs` are the exceptions.
    """

    target: str
    at: float
    replicas: tuple[Replica, ...]
    capacity: Capacity
    owned: Mapping[ServiceId, Owned] = field(default_factory=dict)
    routes: Mapping[ServiceId, ServiceRoute] = field(default_factory=dict)
    proxy_ready: bool = True
    proxy_break: ProxyBreak = ProxyBreak.NONE
    preflights: Mapping[str, Preflight] = field(default_factory=dict)
    preflighting: frozenset[str] = frozenset()
    blockers: Mapping[str, tuple[Reason, ...]] = field(default_factory=dict)
    staging: Mapping[str, Staging] = field(default_factory=dict)
    images: Mapping[str, Staging | None] = field(default_factory=dict)
    outdated: Mapping[tuple[ServiceId, str], Outdated] = field(default_factory=dict)
    faulty: Mapping[ServiceId, Reason] = field(default_factory=dict)
    bugs: tuple[Bug, ...] = ()


@dataclass(frozen=True, slots=True)
class Unreachable:
    """A target that did not answer. Nothing is planned for it."""

    target: str
    at: float
    reason: str
