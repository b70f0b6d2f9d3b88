"""Settings: one YAML file, read once, frozen. Every error names the file and the key."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from reconciler.config_errors import explain
from reconciler.errors import SettingsError

DEFAULT_PATH = Path("/etc/reconciler/config.yaml")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def parse_duration(value: object) -> float:
    """Seconds of `90`, `90s`, `1.5m`, `2h`, `1d` or `250ms`. Raises ValueError."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", str(value).strip())
    if not match:
        raise ValueError(f'"{value}" is not a duration; write for example 90s, 5m or 250ms')
    return float(match[1]) * _UNITS[match[2]]


def normalize_path(path: str) -> str:
    """A folder of the repository without needless dots and slashes; `""` is the whole tree. Raises ValueError."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts or not path.isprintable():
        raise ValueError(f"{path!a} leaves the repository; name folders inside it")
    return "/".join(parts)


def _relative(path: str) -> str:
    if path.startswith("/"):
        raise ValueError(f"{path!a} is absolute; name a folder of the repository, from its root on: hosts/gpu-1")
    return normalize_path(path)


NAME = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
_LABEL = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
Folder = Annotated[str, AfterValidator(_relative)]
Seconds = Annotated[float, BeforeValidator(parse_duration), Field(ge=0)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Section):
    """Where git is. At most one of branch, tag, semver and commit; none means the branch `main`."""

    url: str = Field(description="Repository: https://…, ssh://…, user@host:path, file:///… or a local path")
    branch: str | None = Field(None, description="Branch to follow (`main` when nothing else is named)")
    tag: str | None = Field(None, description="Tag to follow")
    semver: str | None = Field(
        None, description="Highest x.y.z tag (with or without `v`) in this range, in npm's syntax: `>=1.2.0 <2.0.0`"
    )
    commit: str | None = Field(None, description="One commit, all 40 digits")
    interval: Seconds = Field(
        60.0, ge=1, description="How often the remote is asked; a local repository is watched too"
    )
    timeout: Seconds = Field(
        60.0, description="Longest silence of one git call; a fetch that makes progress may take 60 times as long"
    )
    allow_rewrites: bool = Field(False, description="Accept a branch whose history was rewritten")
    token_file: Path | None = Field(None, description="File with the https token or password")
    username: str = Field("git", description="User name sent with the token")
    ssh_key_file: Path | None = Field(None, description="Private key for ssh")
    known_hosts_file: Path | None = Field(None, description="Host keys for ssh, always checked strictly")
    ca_file: Path | None = Field(None, description="CA certificates for https instead of the system's")
    max_file_bytes: int = Field(1 << 20, gt=0, description="Largest manifest file that is read")
    max_total_bytes: int = Field(64 << 20, gt=0, description="Most bytes of manifests in one revision")
    max_files: int = Field(20_000, gt=0, description="Most manifest files in one revision")

    @model_validator(mode="after")
    def _one_reference(self) -> Source:
        named = [k for k in ("branch", "tag", "semver", "commit") if getattr(self, k) is not None]
        if len(named) > 1:
            raise ValueError(f"name only one of {', '.join(named)}")
        return self


class Engine(_Section):
    """What runs an image: an interpreter that stands in for it, or podman."""

    image: str = Field(description="Image, or a pattern with `*`; the first match wins")
    python: Path | None = Field(None, description="Interpreter of the environment that stands in for the image")
    podman: bool = Field(
        False, description="The image itself runs, in a container; instead of `python`, and with `systemd` only"
    )
    env: dict[str, str] = Field(default_factory=dict, description="Variables for every replica of this engine")

    @model_validator(mode="after")
    def _one_executor(self) -> Engine:
        if self.podman == (self.python is not None):
            raise ValueError("name either python, an interpreter that stands in for the image, or podman: true")
        return self

    @property
    def called(self) -> str:
        """What people call it, and what its caches are kept by."""
        return str(self.python) if self.python else f"podman for {self.image}"


class Storage(_Section):
    """How models are fetched that do not lie on this host."""

    python: Path | None = Field(
        None, description="Interpreter that has kserve-storage and fetches models; the daemon's own when unset"
    )
    folder: Path | None = Field(None, description="Where they are kept; `models` in the target's state when unset")
    env: dict[str, str] = Field(
        default_factory=dict, description="Variables for fetching: proxies, `AWS_CA_BUNDLE`, `REQUESTS_CA_BUNDLE`…"
    )


class Allocatable(_Section):
    """What replicas may use; unset is all that the host has."""

    cpu: str | None = Field(None, description="Cores, as Kubernetes writes them: `8` or `7500m`")
    memory: str | None = Field(None, description="Memory, as Kubernetes writes it: `48Gi`")


class Rollout(_Section):
    """How patient a rollout is."""

    min_ready: Seconds = Field(30.0, description="How long a new replica must stay ready before it is trusted")
    ready_timeout: Seconds = Field(600.0, description="Longest time from start to ready")
    drain_timeout: Seconds = Field(
        120.0,
        description="Longest wait for running requests; a service's own terminationGracePeriodSeconds wins",
    )
    stop_grace: Seconds = Field(10.0, description="From SIGTERM to SIGKILL, once nothing runs any more")


class Liveness(_Section):
    """When a replica that serves counts as hung."""

    interval: Seconds = Field(60.0, description="How often an idle engine is asked for one token; 0 never")
    timeout: Seconds = Field(
        60.0,
        description="Longest time without an answer or progress before a replica is replaced; "
        "ten times that while its processes compute; 0 never",
    )


class Routing(_Section):
    """The proxy in front of the replicas."""

    listen: str = Field("127.0.0.1:8080", description="Address of the proxy")
    domain: str = Field("example.com", description="Services answer to `{name}-{namespace}.{domain}`")
    max_body_bytes: int = Field(32 << 20, gt=0, description="Largest request body")


class Secrets(_Section):
    """Where this host finds Secrets, beside systemd credentials."""

    directory: Path | None = Field(None, description="Folder outside git with Secret manifests, closed to other users")
    age_key_file: Path | None = Field(
        None, description="age identities that open SOPS-encrypted Secrets; unset: the systemd credential `age.key`"
    )
    allow_plaintext: bool = Field(False, description="Take Secrets that stand in git unencrypted")


_LABEL_KEY = r"^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"
_LABEL_VALUE = r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$"
LabelKey = Annotated[str, Field(pattern=_LABEL_KEY)]
LabelValue = Annotated[str, Field(pattern=_LABEL_VALUE)]


class Taint(_Section):
    """What keeps services away that do not tolerate it."""

    key: LabelKey = Field(description="Key of the taint: `nvidia.com/gpu`")
    value: LabelValue = Field("", description="Its value")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] = Field(
        description="`NoSchedule` and `NoExecute` keep a service away, `PreferNoSchedule` changes nothing"
    )


class HostTarget(_Section):
    """One host."""

    name: str = Field(pattern=NAME, description="Name of the target")
    kind: Literal["process", "systemd"] = Field(
        "process",
        description="`process`: replicas are child processes that outlive us; `systemd`: they are units, we are root",
    )
    user: str = Field(
        "reconciler-engine",
        pattern=r"^[A-Za-z_][A-Za-z0-9_-]*$",
        description="With `systemd`: the user of the host who runs replicas",
    )
    paths: tuple[Folder, ...] = Field(
        min_length=1,
        description="Folders of the repository that this target reads; the last one is its own and holds its host.yaml",
    )
    default_namespace: str = Field("default", pattern=_LABEL, description="Namespace of documents that name none")
    engines: tuple[Engine, ...] = Field((), description="What runs which image")
    volumes: dict[str, Path] = Field(default_factory=dict, description="Folder behind each `pvc://NAME`")
    secrets: Secrets = Field(default_factory=Secrets, description="Where this host finds Secrets")
    storage: Storage = Field(default_factory=Storage, description="How models are fetched that lie elsewhere")
    gpus: Literal["auto"] | tuple[str, ...] = Field(
        "auto", description="`auto` asks NVML; or a list of UUIDs, of GPUs or MIG devices"
    )
    labels: dict[LabelKey, LabelValue] = Field(
        default_factory=dict, description="Labels of the host, for nodeSelector and node affinity"
    )
    taints: tuple[Taint, ...] = Field((), description="Taints of the host")
    allocatable: Allocatable = Field(default_factory=Allocatable, description="Upper limits for all replicas together")
    ports: str = Field("20000-20999", pattern=r"^\d+-\d+$", description="Ports that replicas may listen on")
    rollout: Rollout = Field(default_factory=Rollout, description="How patient a rollout is")
    liveness: Liveness = Field(default_factory=Liveness, description="When a replica that serves counts as hung")
    routing: Routing = Field(default_factory=Routing, description="The proxy in front of the replicas")

    @field_validator("engines")
    @classmethod
    def _containers_are_units(cls, engines: tuple[Engine, ...], info: ValidationInfo) -> tuple[Engine, ...]:
        if info.data.get("kind") == "process" and any(engine.podman for engine in engines):
            raise ValueError("podman: true needs kind: systemd, which keeps the containers")
        return engines

    @property
    def own_path(self) -> str:
        """The folder that is this target's alone."""
        return self.paths[-1]

    @property
    def port_range(self) -> range:
        first, last = (int(part) for part in self.ports.split("-"))
        return range(first, last + 1)


class Web(_Section):
    """The daemon's own HTTP side."""

    listen: str = Field("127.0.0.1:9464", description="Address of /healthz, /readyz, /metrics and /prometheus/sd")


class Log(_Section):
    """The daemon's log."""

    format: Literal["auto", "text", "json"] = Field("auto", description="`auto`: text on a terminal, else JSON")
    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe level shown")


class Settings(_Section):
    """Everything the daemon is told."""

    source: Source = Field(description="Where git is")
    targets: tuple[HostTarget, ...] = Field(min_length=1, description="The places to keep as git says")
    state_dir: Path = Field(Path("/var/lib/reconciler"), description="Our folder: records, mirror, history")
    socket: Path | None = Field(None, description="Control socket; `control.sock` in state_dir when unset")
    resync: Seconds = Field(60.0, gt=0, description="Longest time between two passes")
    web: Web = Field(default_factory=Web, description="The daemon's own HTTP side")
    log: Log = Field(default_factory=Log, description="The daemon's log")

    @property
    def socket_path(self) -> Path:
        return self.socket or self.state_dir / "control.sock"

    @property
    def closed(self) -> tuple[Path, ...]:
        """Ours alone: no service is shown anything of it."""
        files = [self.source.token_file, self.source.ssh_key_file]
        for target in self.targets:
            files += [target.secrets.directory, target.secrets.age_key_file, target.storage.folder]
        return (self.state_dir, *(path for path in dict.fromkeys(files) if path is not None))

    def target(self, name: str) -> HostTarget:
        """The target of this name. Raises SettingsError."""
        names = [target.name for target in self.targets]
        if name not in names:
            raise SettingsError(f"--target {name}: no such target in the config; there are: {', '.join(names)}")
        return self.targets[names.index(name)]

    @model_validator(mode="after")
    def _distinct_names(self) -> Settings:
        names = [target.name for target in self.targets]
        if len(set(names)) != len(names):
            raise ValueError("two targets have the same name")
        folders = [target.storage.folder for target in self.targets if target.storage.folder]
        if len(set(folders)) != len(folders):
            raise ValueError("two targets keep models in the same folder; each deletes what it does not need itself")
        return self

    @model_validator(mode="after")
    def _distinct_gpus(self) -> Settings:
        """What `auto` finds is known only when we run."""
        owners: dict[str, str] = {}
        for target in self.targets:
            for uuid in target.gpus if target.gpus != "auto" else ():
                if owners.setdefault(uuid, target.name) != target.name:
                    raise ValueError(
                        f"targets {owners[uuid]} and {target.name} both list {uuid} in gpus; one may have it"
                    )
        return self

    @classmethod
    def load(cls, path: Path) -> Settings:
        """Raises SettingsError, which names the file, the line, the key and what was expected."""
        return _validated(cls, path, _read(path))


def _read(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_bytes())
    except FileNotFoundError:
        raise SettingsError(f"{path}: no such file; pass --config PATH or set RECONCILER_CONFIG") from None
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise SettingsError(f"{path}: is not YAML: {error}") from None


def _validated(cls: type[Settings], path: Path, data: Any) -> Settings:
    if not isinstance(data, dict):
        raise SettingsError(f"{path}: expected a mapping with the keys source and targets")
    try:
        return cls.model_validate(data)
    except ValidationError as error:
        lines = explain(path, error.errors(include_url=False), _known_keys())
        raise SettingsError("\n".join(lines)) from None


def _known_keys() -> list[str]:
    keys: list[str] = []
    hosts = (HostTarget, Engine, Secrets, Storage, Taint, Allocatable, Rollout, Liveness, Routing)
    sections = (Settings, Source, *hosts, Web, Log)
    for section in sections:
        keys += section.model_fields
    return keys


def config_path(given: str | None) -> Path:
    """The config file: what was given, else $RECONCILER_CONFIG, else the default place."""
    return Path(given or os.environ.get("RECONCILER_CONFIG") or DEFAULT_PATH)
