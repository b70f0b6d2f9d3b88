"""The desired state of one target, resolved."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from operator import attrgetter
from types import MappingProxyType
from typing import Any

from reconciler.model.names import NO_ORIGIN, NoOrigin, Origin, Reason, ServiceId
from reconciler.model.objects import DesiredObject

GPU = "nvidia.com/gpu"
MIG = "nvidia.com/mig-"
"""How a request for a part of a GPU in MIG mode begins; the part's profile follows: `nvidia.com/mig-1g.10gb`."""
GPU_FRACTION = "reconciler/gpu-memory-fraction"
"""Our annotation by which a service needs only that fraction of its one GPU: `"0.4"`."""


@dataclass(frozen=True, slots=True)
class Resources:
    """What one replica asks for. Kinds of accelerator other than nvidia.com/gpu stand in `other`.

    Beyond its limits it gets no CPU, and is killed for memory, where the host can enforce that; 0 is no limit.
    `gpu_share_millis` is the part of its one GPU that it needs, in thousandths; 0: it has its GPUs for itself.
    """

    gpus: int = 0
    cpu_millis: int = 0
    memory_bytes: int = 0
    other: tuple[tuple[str, int], ...] = ()
    cpu_limit_millis: int = 0
    memory_limit_bytes: int = 0
    gpu_share_millis: int = 0

    @property
    def mig(self) -> tuple[tuple[str, int], ...]:
        """The parts of GPUs in MIG mode: kind and number."""
        return tuple((kind, count) for kind, count in self.other if kind.startswith(MIG))

    @property
    def gpu_devices(self) -> int:
        """GPUs and parts of GPUs that it leases altogether."""
        return self.gpus + sum(count for _, count in self.mig)


@dataclass(frozen=True, slots=True)
class EnvVar:
    """One variable. `source` names a reference that a host cannot resolve from git alone (a secret key, a field).

    Of a Secret it is `secret NAME/KEY`, or `secret NAME/*` for a variable per key, named after it behind a prefix;
    ` optional` stands behind it where the Secret need not be there. The value is looked up when a process starts.
    """

    name: str
    value: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True)
class StorageFile:
    """A file that fetching a model reads, CA certificates or credentials, where KServe's storage initializer sees it.

    `source` is `secret NAME/*`, and `path` a folder with one file per key; or it is empty and `text` is the file.
    """

    path: str
    text: str = field(default="", repr=False)
    source: str = ""


@dataclass(frozen=True, slots=True)
class Mount:
    """A model's files: where from, and where the container expects them.

    `env` and `files` are what KServe's storage initializer would get to fetch them: of Secrets the references only.
    """

    uri: str
    path: str = "/mnt/models"
    env: tuple[EnvVar, ...] = ()
    files: tuple[StorageFile, ...] = ()


@dataclass(frozen=True, slots=True)
class SecretMount:
    """A Secret's keys as files in a folder of the container. `items` are key and file; none: every key by its name.

    With `sub_path` only the file of that name is there, and `path` is its own.
    """

    secret: str
    path: str
    items: tuple[tuple[str, str], ...] = ()
    sub_path: str = ""
    optional: bool = False


@dataclass(frozen=True, slots=True)
class VolumeFile:
    """A file of a volume, at `path` below its root: `text`, or bytes as base64 where `is_base64`.

    `source` is a reference as in EnvVar, looked up when a process starts; without a path it is one file per key.
    """

    path: str
    text: str = field(default="", repr=False)
    source: str = ""
    is_base64: bool = False


@dataclass(frozen=True, slots=True)
class FileMount:
    """A volume of a ConfigMap, of the pod's own fields, or of several sources, as files in a folder of the container.

    Of files with one path the last counts. With `sub_path` only what is there in the volume is at `path`.
    """

    path: str
    files: tuple[VolumeFile, ...] = ()
    sub_path: str = ""


@dataclass(frozen=True, slots=True)
class Argument:
    """One item of a container's command or args, and where git writes it; NO_ORIGIN: what we or KServe add.

    Two are equal when their texts are: lines decide nothing. In records it is its text, which all it ever was there.
    """

    text: str
    origin: Origin | NoOrigin = field(compare=False)

    def rewritten(self, text: str) -> Argument:
        """Another text, written in the same line."""
        return self if text == self.text else Argument(text, self.origin)

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_after_validator_function(
            lambda text: cls(text, NO_ORIGIN),
            core_schema.str_schema(),
            serialization=core_schema.plain_serializer_function_ser_schema(attrgetter("text")),
        )


def texts(arguments: Iterable[Argument]) -> tuple[str, ...]:
    """What they say, wherever that is written."""
    return tuple([each.text for each in arguments])


@dataclass(frozen=True, slots=True)
class EffectiveSpec:
    """What runs, after runtime and service are merged. Its hash is the digest: equal digest, no restart needed."""

    image: str
    command: tuple[Argument, ...]
    args: tuple[Argument, ...]
    env: tuple[EnvVar, ...] = ()
    mounts: tuple[Mount, ...] = ()
    resources: Resources = Resources()
    secrets: tuple[SecretMount, ...] = ()
    files: tuple[FileMount, ...] = ()

    @property
    def command_line(self) -> tuple[Argument, ...]:
        """The command, and then its arguments."""
        return (*self.command, *self.args)

    @property
    def written_paths(self) -> tuple[str, ...]:
        """Where in the container files are that are written when a replica starts."""
        return (*(each.path for each in self.secrets), *(each.path for each in self.files))

    @property
    def mounted_paths(self) -> tuple[str, ...]:
        """Where in the container something is mounted."""
        return (*(each.path for each in self.mounts), *self.written_paths)


@dataclass(frozen=True, slots=True)
class Strategy:
    """How many replicas a rollout may add or miss. `recreate`: every old one goes before any new one comes."""

    max_surge: int
    max_unavailable: int
    recreate: bool = False
    explicit: bool = True


@dataclass(frozen=True, slots=True)
class Canary:
    """A second version that serves `percent` of the first one's requests: KServe's `spec.canary[]`."""

    spec: EffectiveSpec
    digest: str
    percent: int
    replicas: int = 1
    blocked: tuple[Reason, ...] = ()
    variable_origins: tuple[tuple[str, Origin], ...] = ()
    resources_origin: Origin | None = None
    mount_origins: tuple[tuple[str, Origin], ...] = ()


@dataclass(frozen=True, slots=True)
class Desired:
    """One service as git wants it on one target.

    `spec` is None when git's documents cannot be used: `problems` says why, and what runs is kept. `blocked` are
    reasons, known without asking the target, that it cannot start there; nothing starts and nothing stops.
    `warnings_without_gpu` are warnings only where the target turns out to have no GPU. `dashboard`: it is to be shown.
    `metrics_path` is where its replicas serve their metrics; None: not at all. `guarded`, `open_paths`,
    `passthrough`, `model_names`, `grpc` and `http` are as in ServiceRoute.
    `not_here` are the rules by which it is for other places than this target; then `replicas` is 0. `stopped`: git
    asks for no replica by the annotation that stops a service, not by its count. `canary` waits until the service has
    proved itself. `keeps_stable`: what is promoted stays, whatever the share of its canary.
    `variable_origins` names each variable of the container with its line, `mount_origins` each mount by its path.
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
    problems: tuple[Reason, ...] = ()
    blocked: tuple[Reason, ...] = ()
    warnings: tuple[Reason, ...] = ()
    warnings_without_gpu: tuple[Reason, ...] = ()
    display_name: str = ""
    dashboard: bool = True
    metrics_path: str | None = "/metrics"
    guarded: bool = False
    open_paths: tuple[str, ...] = ()
    not_here: tuple[Reason, ...] = ()
    passthrough: bool = False
    stopped: bool = False
    canary: Canary | None = None
    keeps_stable: bool = False
    variable_origins: tuple[tuple[str, Origin], ...] = ()
    resources_origin: Origin | None = None
    mount_origins: tuple[tuple[str, Origin], ...] = ()
    model_names: tuple[str, ...] = ()
    grpc: bool = False
    http: bool = True

    @property
    def versions(self) -> tuple[Desired, ...]:
        """The service, and its second version as if that were all there is of it."""
        other = self.canary
        if other is None:
            return (self,)
        second = replace(
            self,
            spec=other.spec,
            digest=other.digest,
            replicas=other.replicas,
            canary_percent=other.percent,
            blocked=other.blocked,
            variable_origins=other.variable_origins,
            resources_origin=other.resources_origin,
            mount_origins=other.mount_origins,
            canary=None,
            keeps_stable=True,
        )
        return (self, second)


@dataclass(frozen=True, slots=True)
class DesiredState:
    """All services of one target.

    `unreadable` are files (or path prefixes ending in `/`) that may name services but could not be read: what came
    from them is kept. `prunable` is False when the target's own file or folder is missing: nothing is pruned.
    `refused` are faults that name no services: a broken runtime, a Secret in the clear, a folder of Secrets that cannot
    be read.
    `drain` says that nothing may run on this target, and where that is written; `unschedulable` that nothing new may
    start there. `host_known` is False when the
    target's own file cannot tell: then what it said last still holds. `leaving` says why nothing is wanted here at all,
    if it was not git that said so.
    `skipped` are files that are there, but hold nothing for this target, and why.
    `paths` are what it reads; empty: not known. `in_default_namespace` are services whose documents name no namespace.
    `objects` are all that a cluster is to have, the services among them; hosts have none.
    """

    target: str
    revision: str
    services: tuple[Desired, ...]
    unreadable: tuple[Reason, ...] = ()
    prunable: bool = True
    notes: tuple[Reason, ...] = ()
    refused: tuple[Reason, ...] = ()
    drain: Reason | None = None
    unschedulable: Reason | None = None
    host_known: bool = True
    leaving: Reason | None = None
    skipped: Mapping[str, Reason] = field(default_factory=lambda: MappingProxyType({}))
    paths: tuple[str, ...] = ()
    in_default_namespace: frozenset[ServiceId] = frozenset()
    objects: tuple[DesiredObject, ...] = ()

    @property
    def versions(self) -> tuple[Desired, ...]:
        """Everything that may run: each service, and its second version after it."""
        return tuple(version for one in self.services for version in one.versions)
