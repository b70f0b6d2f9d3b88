"""Settings: one YAML file, read once, frozen. Every error names the file and the key."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, assert_never

from pydantic import (
    Discriminator,
    Field,
    PrivateAttr,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from reconciler.config.conflicts import conflicts
from reconciler.config.errors import CLUSTER, HOST, explain, problem_line
from reconciler.config.forge import (
    ForgeSettings,
    GitHubApp,
    NotificationSettings,
    VerifySettings,
    WebhookSettings,
)
from reconciler.config.section import Section
from reconciler.config.values import (
    AbsolutePath,
    Commit,
    Count,
    Domain,
    FieldPaths,
    Folder,
    GitName,
    GitUser,
    GpuId,
    Identity,
    Image,
    LabelKey,
    LabelValue,
    Limit,
    Listen,
    Namespace,
    Percent,
    Ports,
    Quantity,
    RepositoryUrl,
    Seconds,
    TargetName,
    Url,
    User,
    Variables,
    VersionRange,
    VolumeName,
)
from reconciler.config.web import (
    AuthSettings,
    OidcSettings,
    PeerSettings,
    TlsSettings,
    TokenSettings,
    TrustedProxySettings,
    Web,
)
from reconciler.errors import SettingsError
from reconciler.formats.strict_yaml import Tree, YamlProblem, load_one
from reconciler.model import GuardLimits, is_under

DEFAULT_PATH = Path("/etc/reconciler/config.yaml")
# A config is written by hand: more than this is a mistake.
_MAX_BYTES = 1 << 20


_BEYOND = "beyond it, targets that do not read the largest folder continue"


class SourceSettings(Section):
    """Where git is. At most one of branch, tag, semver and commit; none means the branch `main`."""

    url: RepositoryUrl = Field(
        description="URL of the repository: https://…, ssh://…, user@host:path, file:///… or a local path"
    )
    branch: GitName | None = Field(None, description="Branch to follow (`main` if no reference is set)")
    tag: GitName | None = Field(None, description="Tag to follow")
    semver: VersionRange | None = Field(
        None, description="Highest x.y.z tag (with or without `v`) in this range, in npm's syntax: `>=1.2.0 <2.0.0`"
    )
    commit: Commit | None = Field(None, description="One commit, all 40 digits")
    interval: Seconds = Field(
        60.0, ge=1, description="How often the remote is polled; a local repository is watched too"
    )
    timeout: Seconds = Field(
        60.0, gt=0, description="Longest time without progress of a git command; a fetch may take 60 times as long"
    )
    allow_rewrites: bool = Field(False, description="Accept a branch whose history was rewritten")
    token_file: AbsolutePath | None = Field(None, description="File with the https token or password")
    username: GitUser = Field("git", description="User name sent with the token")
    ssh_key_file: AbsolutePath | None = Field(None, description="Private key for ssh")
    known_hosts_file: AbsolutePath | None = Field(None, description="Host keys for ssh, always checked strictly")
    ca_file: AbsolutePath | None = Field(None, description="CA certificates for https instead of the system's")
    verify: VerifySettings = Field(default_factory=VerifySettings, description="Signatures that commits must bear")
    max_file_bytes: Count = Field(1 << 20, description="Largest manifest file that is read")
    max_total_bytes: Count = Field(64 << 20, description=f"Most bytes of manifests in one revision; {_BEYOND}")
    max_repository_bytes: Count = Field(4 << 30, description="Most bytes of history that are fetched and kept")
    max_files: Count = Field(20_000, description=f"Most manifest files in one revision; {_BEYOND}")

    @model_validator(mode="after")
    def _one_reference(self) -> SourceSettings:
        named = [k for k in ("branch", "tag", "semver", "commit") if getattr(self, k) is not None]
        if len(named) > 1:
            raise ValueError(f"name only one of {', '.join(named)}")
        if self.verify.mode == "tag" and not (self.tag or self.semver):
            raise ValueError("verify.mode: tag needs tag or semver, which name the tag that is signed")
        return self


class EngineSettings(Section):
    """What runs an image: an interpreter that replaces it, or podman."""

    image: Image = Field(description="Image, or a pattern with `*`; the first match wins")
    python: AbsolutePath | None = Field(None, description="Interpreter of the environment that replaces the image")
    podman: bool = Field(
        False, description="Run the image itself in a container, instead of `python`; with `systemd` only"
    )
    env: Variables = Field(default_factory=dict, description="Variables for every replica of this engine")

    @model_validator(mode="after")
    def _one_executor(self) -> EngineSettings:
        if self.podman == (self.python is not None):
            raise ValueError("set either python, an interpreter that replaces the image, or podman: true")
        return self

    @property
    def called(self) -> str:
        """What people call it, and what its caches are kept by."""
        return str(self.python) if self.python else f"podman for {self.image}"


class StorageSettings(Section):
    """How models that are not on this host are downloaded."""

    python: AbsolutePath | None = Field(
        None, description="Interpreter that has kserve-storage and downloads models; unset: the daemon's own"
    )
    folder: AbsolutePath | None = Field(
        None, description="Folder of downloaded models; unset: `models` in the target's state"
    )
    env: Variables = Field(
        default_factory=dict, description="Variables for downloads: proxies, `AWS_CA_BUNDLE`, `REQUESTS_CA_BUNDLE`…"
    )


class Allocatable(Section):
    """What replicas may use; unset is all that the host has."""

    cpu: Quantity | None = Field(None, description="Cores, as Kubernetes writes them: `8` or `7500m`")
    memory: Quantity | None = Field(None, description="Memory, as Kubernetes writes it: `48Gi`")


class Rollout(Section):
    """How patient a rollout is."""

    min_ready: Seconds = Field(30.0, description="How long a new replica must stay ready before it is promoted")
    ready_timeout: Seconds = Field(600.0, gt=0, description="Longest time from start to ready")
    drain_timeout: Seconds = Field(
        120.0,
        description="Longest wait for running requests; a service's own terminationGracePeriodSeconds wins",
    )
    stop_grace: Seconds = Field(10.0, description="From SIGTERM to SIGKILL, once nothing runs any more")
    shutdown_timeout: Seconds | None = Field(
        None,
        description="With `systemd`: how long a shutdown of the host waits for running requests; unset: "
        "`drain_timeout`, at most 60 s",
    )

    @property
    def shutdown_budget(self) -> float:
        """Seconds that a shutdown of the host waits for running requests."""
        return min(self.drain_timeout, 60.0) if self.shutdown_timeout is None else self.shutdown_timeout


class LivenessSettings(Section):
    """When a replica that serves counts as hung."""

    interval: Seconds = Field(60.0, description="How often an idle engine is probed for one token; 0: never")
    timeout: Seconds = Field(
        60.0,
        description="Longest time without a response or progress before a replica is replaced; "
        "ten times that while its processes compute; 0: never",
    )


class Routing(Section):
    """The proxy in front of the replicas."""

    listen: Listen = Field("127.0.0.1:8080", description="Address of the proxy")
    domain: Domain = Field("example.com", description="Services are reached at `{name}-{namespace}.{domain}`")
    max_body_bytes: Count = Field(32 << 20, lt=1 << 32, description="Largest request body")


class Prune(Section):
    """How much git may delete at once without `reconciler approve`."""

    max_services: Limit | None = Field(
        10,
        description="Most services, on a cluster objects, that are deleted at once without `reconciler approve`; "
        "`null`: any number",
    )
    max_percent: Percent = Field(
        50,
        description="The same in percent of what the target has, from the third on; below 100, all at once need "
        "approval as well",
    )
    max_gpus: Limit | None = Field(8, description="The same for the GPUs that they use; `null`: any number")

    @property
    def limits(self) -> GuardLimits:
        return GuardLimits(self.max_services, self.max_percent, self.max_gpus, everything=self.max_percent == 100)


class SecretFolder(Section):
    """A folder of the repository; only its documents get Secrets of some namespaces."""

    path: Folder = Field(description="Folder of the repository; the deepest match applies")
    namespaces: tuple[Namespace, ...] = Field(
        min_length=1,
        description="Namespaces whose Secrets may be in this folder, and are available only to services in it",
    )
    age_key_file: AbsolutePath | None = Field(
        None, description="age identities that open what is encrypted there, instead of the target's"
    )


class Secrets(Section):
    """Where this host finds Secrets, in addition to systemd credentials."""

    directory: AbsolutePath | None = Field(
        None, description="Folder outside git with Secret manifests, closed to other users"
    )
    age_key_file: AbsolutePath | None = Field(
        None, description="age identities that open SOPS-encrypted Secrets; unset: the systemd credential `age.key`"
    )
    allow_plaintext: bool = Field(False, description="Accept Secrets that are in git unencrypted")
    folders: tuple[SecretFolder, ...] = Field(
        (), description="Which folders of the repository may hold and use the Secrets of which namespaces; unset: all"
    )

    @property
    def key_files(self) -> tuple[Path | None, ...]:
        """All files with age identities."""
        return (self.age_key_file, *(each.age_key_file for each in self.folders))

    def folder_of(self, file: str) -> SecretFolder | None:
        """The deepest of the folders that holds a file of the repository."""
        around = [each for each in self.folders if is_under(file, (each.path,))]
        return max(around, key=lambda each: len(each.path), default=None)

    def folders_for(self, namespace: str) -> list[str]:
        """The folders that may hold and use the Secrets of a namespace."""
        return [each.path for each in self.folders if namespace in each.namespaces]


class TaintSettings(Section):
    """What keeps services away that do not tolerate it."""

    key: LabelKey = Field(description="Key of the taint: `nvidia.com/gpu`")
    value: LabelValue = Field("", description="Its value")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] = Field(
        description="`NoSchedule` and `NoExecute` keep a service away, `PreferNoSchedule` changes nothing"
    )


class HostSettings(Section):
    """One host."""

    name: TargetName = Field(description="Name of the target")
    kind: Literal["process", "systemd"] = Field(
        "process",
        description="`process`: replicas are child processes that outlive the daemon; `systemd`: they are units, "
        "and the daemon is root",
    )
    user: User = Field(
        "reconciler-engine",
        description="With `systemd`: the user that runs replicas",
    )
    allow_root: bool = Field(
        False, description="Run replicas as root although users other than root may push: each of them then is root"
    )
    paths: tuple[Folder, ...] = Field(
        min_length=1,
        description="Folders of the repository that this target reads; the last one is its own and holds its host.yaml",
    )
    default_namespace: Namespace = Field("default", description="Namespace of documents that name none")
    engines: tuple[EngineSettings, ...] = Field((), description="What runs which image")
    volumes: dict[VolumeName, AbsolutePath] = Field(default_factory=dict, description="Folder behind each `pvc://NAME`")
    secrets: Secrets = Field(default_factory=Secrets, description="Where this host finds Secrets")
    storage: StorageSettings = Field(
        default_factory=StorageSettings, description="How models are fetched that lie elsewhere"
    )
    gpus: Literal["auto"] | tuple[GpuId, ...] = Field(
        "auto", description="`auto` asks NVML; or a list of UUIDs, of GPUs or MIG devices"
    )
    labels: dict[LabelKey, LabelValue] = Field(
        default_factory=dict, description="Labels of the host, for nodeSelector and node affinity"
    )
    taints: tuple[TaintSettings, ...] = Field((), description="Taints of the host")
    allocatable: Allocatable = Field(default_factory=Allocatable, description="Upper limits for all replicas together")
    ports: Ports = Field("20000-20999", description="Ports for replicas that cannot listen on a Unix socket")
    rollout: Rollout = Field(default_factory=Rollout, description="How patient a rollout is")
    liveness: LivenessSettings = Field(
        default_factory=LivenessSettings, description="When a replica that serves counts as hung"
    )
    routing: Routing = Field(default_factory=Routing, description="The proxy in front of the replicas")
    prune: Prune = Field(default_factory=Prune, description="How much git may delete at once without approval")

    @field_validator("engines")
    @classmethod
    def _containers_are_units(
        cls, engines: tuple[EngineSettings, ...], info: ValidationInfo
    ) -> tuple[EngineSettings, ...]:
        if info.data.get("kind") == "process" and any(engine.podman for engine in engines):
            raise ValueError("podman: true needs kind: systemd, which keeps the containers")
        return engines

    @property
    def replica_user(self) -> str | None:
        """The user that runs its replicas; None: the daemon's own user."""
        match self.kind:
            case "process":
                return None
            case "systemd":
                return self.user
            case _:
                assert_never(self.kind)

    @property
    def own_path(self) -> str:
        """The folder that is this target's alone."""
        return self.paths[-1]

    @property
    def closed(self) -> tuple[Path, ...]:
        """What this target names of the host that no service is shown."""
        files = (self.secrets.directory, *self.secrets.key_files, self.storage.folder)
        return tuple(path for path in files if path is not None)

    @property
    def port_range(self) -> range:
        first, last = (int(part) for part in self.ports.split("-"))
        return range(first, last + 1)


class IgnoredFields(Section):
    """Fields that others than git decide: neither compared nor applied."""

    kind: str = Field("*", description="Kind of the objects, with its group: `Deployment.apps`; `*`: every kind")
    namespace: str = Field("*", description="Their namespace; `*`: every one")
    name: str = Field("*", description="Their name; `*`: every one")
    paths: FieldPaths = Field(min_length=1, description="Fields, as `spec.replicas` or `metadata.annotations[KEY]`")


class ClusterRollout(Section):
    """How patient a rollout on a cluster is."""

    min_ready: Seconds = Field(
        30.0, description="How long a service must stay ready before its spec is the last good one"
    )
    ready_timeout: Seconds = Field(1800.0, gt=0, description="Longest time to ready, once its pods have a node")
    schedule_timeout: Seconds = Field(900.0, gt=0, description="Longest wait for a node with free GPUs")
    drain_timeout: Seconds = Field(120.0, description="Longest wait for running requests when a pod is stopped")
    batch: Count = Field(3, description="Services that follow an edit of their runtime at once, after a first one")


class ClusterSettings(Section):
    """One Kubernetes cluster that runs KServe."""

    name: TargetName = Field(description="Name of the target")
    kind: Literal["kubernetes"] = Field(description="`kubernetes`: objects are applied, and KServe runs replicas")
    paths: tuple[Folder, ...] = Field(
        min_length=1,
        description="Folders of the repository that this target reads; the last one is its own and holds its "
        "cluster.yaml",
    )
    default_namespace: Namespace = Field("default", description="Namespace of documents that name none")
    kubeconfig: AbsolutePath | None = Field(
        None, description="kubeconfig file; unset: the service account of the daemon's own pod"
    )
    context: str | None = Field(None, min_length=1, description="Context of the kubeconfig; unset: its current one")
    impersonate: Identity | None = Field(
        None, description="Act as this user, or as a service account: `NAMESPACE/NAME`"
    )
    allow_exec: bool = Field(False, description="Run the program that a kubeconfig names to get credentials")
    namespace: Namespace = Field("reconciler", description="Namespace of our own objects on the cluster; it must exist")
    qps: int = Field(
        0, ge=0, description="Most requests per second to the API server; 0: as its Priority and Fairness allows"
    )
    burst: Count = Field(100, description="Most requests at once, before `qps` applies")
    timeout: Seconds = Field(30.0, gt=0, description="Longest time that one request to the API server takes")
    secrets: Secrets = Field(default_factory=Secrets, description="How SOPS-encrypted Secrets are opened")
    prune: Prune = Field(default_factory=Prune, description="How much git may delete at once without approval")
    take_over: bool = Field(
        False,
        description="Take over objects in git that others made; `false`: only those with the annotation "
        '`reconciler/take-over: "true"`',
    )
    ignore: tuple[IgnoredFields, ...] = Field((), description="Fields that others than git decide")
    drain: bool = Field(True, description="Add what makes vLLM drain when a pod is stopped, where git sets nothing")
    preflight: bool = Field(False, description="Validate arguments with the image's own vLLM, in a Job without a GPU")
    probe: Url | None = Field(
        None,
        description="Where the daemon reaches services: a URL with `{name}` and `{namespace}`. A new version is "
        "promoted once a token comes back from there; unset: as soon as KServe and its pods say that it is ready",
    )
    rollout: ClusterRollout = Field(default_factory=ClusterRollout, description="How patient a rollout is")

    @property
    def own_path(self) -> str:
        """The folder that is this target's alone."""
        return self.paths[-1]

    @property
    def closed(self) -> tuple[Path, ...]:
        """What this target names of the host that no service is shown."""
        files = (self.kubeconfig, self.secrets.directory, *self.secrets.key_files)
        return tuple(path for path in files if path is not None)


TargetSettings: TypeAlias = HostSettings | ClusterSettings
"""One target of either kind."""


def _kind_of(target: Any) -> str:
    kind = target.get("kind") if isinstance(target, dict) else getattr(target, "kind", None)
    return CLUSTER if kind == "kubernetes" else HOST


_Target = Annotated[
    Annotated[HostSettings, Tag(HOST)] | Annotated[ClusterSettings, Tag(CLUSTER)], Discriminator(_kind_of)
]


class Log(Section):
    """The daemon's log."""

    format: Literal["auto", "text", "json"] = Field("auto", description="`auto`: text on a terminal, else JSON")
    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Lowest level that is logged")


class Settings(Section):
    """All settings of the daemon."""

    source: SourceSettings = Field(description="Where git is")
    targets: tuple[_Target, ...] = Field(min_length=1, description="The places to keep in sync with git")
    state_dir: AbsolutePath = Field(
        Path("/var/lib/reconciler"), description="State of the daemon: records, mirror of git, history"
    )
    socket: AbsolutePath | None = Field(None, description="Control socket; unset: `control.sock` in state_dir")
    resync: Seconds = Field(60.0, gt=0, description="Longest time between two passes")
    web: Web = Field(default_factory=Web, description="The daemon's own HTTP side")
    forge: ForgeSettings = Field(default_factory=ForgeSettings, description="Where commits are answered")
    notifications: tuple[NotificationSettings, ...] = Field((), description="Who else is told what happens")
    log: Log = Field(default_factory=Log, description="The daemon's log")
    _file: Path | None = PrivateAttr(None)

    @property
    def hosts(self) -> tuple[HostSettings, ...]:
        return tuple(target for target in self.targets if isinstance(target, HostSettings))

    @property
    def numbered_hosts(self) -> list[tuple[int, HostSettings]]:
        """With their place in the list of targets."""
        return [(index, target) for index, target in enumerate(self.targets) if isinstance(target, HostSettings)]

    @property
    def clusters(self) -> tuple[ClusterSettings, ...]:
        return tuple(target for target in self.targets if isinstance(target, ClusterSettings))

    @property
    def socket_path(self) -> Path:
        return self.socket or self.state_dir / "control.sock"

    @property
    def closed(self) -> tuple[Path, ...]:
        """For the daemon alone: no service can read it."""
        files = [self._file, self.source.token_file, self.source.ssh_key_file, *self.forge.files]
        files += self.web.files
        files += [path for notification in self.notifications for path in notification.files]
        for target in self.targets:
            files += target.closed
        return (self.state_dir, *(path for path in dict.fromkeys(files) if path is not None))

    def target(self, name: str) -> TargetSettings:
        """The target of this name. Raises SettingsError."""
        names = [target.name for target in self.targets]
        if name not in names:
            raise SettingsError(f"--target {name}: no such target in the config; there are: {', '.join(names)}")
        return self.targets[names.index(name)]

    @classmethod
    def load(cls, path: Path) -> Settings:
        """Raises SettingsError, which names the file, the line, the key and what was expected."""
        return _validated(cls, path, _read(path))


def _read(path: Path) -> Tree:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise SettingsError(f"{path}: is larger than {_MAX_BYTES >> 20} MiB; that is not a config")
        return load_one(data)
    except FileNotFoundError:
        raise SettingsError(f"{path}: no such file; pass --config PATH or set RECONCILER_CONFIG") from None
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from None
    except YamlProblem as problem:
        raise SettingsError(f"{path}:{problem.line}: {problem.message}") from None


def _validated(cls: type[Settings], path: Path, tree: Tree) -> Settings:
    if not isinstance(tree.value, dict):
        raise SettingsError(f"{path}:1: expected a mapping with the keys source and targets")
    try:
        settings = cls.model_validate(tree.value)
    except ValidationError as error:
        lines = explain(path, tree, error.errors(include_url=False), _known_keys())
        raise SettingsError("\n".join(lines)) from None
    if found := [problem_line(path, tree, place, message) for place, message in conflicts(settings)]:
        raise SettingsError("\n".join(found))
    settings._file = path.absolute()
    return settings


def _known_keys() -> list[str]:
    keys: list[str] = []
    hosts = (
        HostSettings,
        EngineSettings,
        Secrets,
        StorageSettings,
        TaintSettings,
        Allocatable,
        Rollout,
        LivenessSettings,
        Routing,
    )
    clusters = (ClusterSettings, ClusterRollout, IgnoredFields)
    forges = (ForgeSettings, GitHubApp, NotificationSettings, VerifySettings, WebhookSettings)
    web = (Web, TlsSettings, AuthSettings, TokenSettings, OidcSettings, TrustedProxySettings, PeerSettings)
    sections = (Settings, SourceSettings, *hosts, *clusters, *web, *forges, Log)
    for section in sections:
        keys += section.model_fields
    return keys


def config_path(given: str | None) -> Path:
    """The config file: the given one, else $RECONCILER_CONFIG, else the default path."""
    return Path(given or os.environ.get("RECONCILER_CONFIG") or DEFAULT_PATH)
