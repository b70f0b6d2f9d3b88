"""Everything of one tree that KServe would see next to a service: runtimes, secrets, accounts, settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reconciler.kserve import api_server, config, runtime_validation
from reconciler.kserve.api_server import later_fields
from reconciler.kserve.config import Config
from reconciler.kserve.credentials import Secret, ServiceAccount, Vault, decode_secret
from reconciler.kserve.injection import Setting
from reconciler.kserve.localmodel import LocalModel
from reconciler.kserve.openshift_ai import ACCOUNT_SUFFIX, connection_type, with_data_connections
from reconciler.kserve.runtime_selection import Runtime, Runtimes
from reconciler.kserve.storage import DEFAULT_CONTAINER, StorageContainer

Document = Mapping[str, Any]
Templated = tuple[Document, str, str]
"""A document, its file and line, and what holds it."""
_CLUSTER_SCOPED = frozenset({"ClusterServingRuntime", "ClusterStorageContainer", "LocalModelCache"})


@dataclass(frozen=True, slots=True)
class DocumentIssue:
    """What a cluster refuses, or warns about, in a document that is no service.

    `index` is the document's place in the tree.
    """

    index: int
    path: tuple[Any, ...]
    message: str


@dataclass(frozen=True, slots=True, eq=False)
class ClusterObjects:
    """Built once per tree. `issues` and `warnings` are about documents other than InferenceServices."""

    default_namespace: str = "default"
    config: Config = field(default_factory=Config)
    runtimes: Runtimes = field(default_factory=lambda: Runtimes(()))
    secrets: Mapping[tuple[str, str], Secret] = field(default_factory=dict, repr=False)
    accounts: Mapping[tuple[str, str], ServiceAccount] = field(default_factory=dict)
    storage_containers: tuple[StorageContainer, ...] = (DEFAULT_CONTAINER,)
    models: tuple[LocalModel, ...] = ()
    profiles: Mapping[tuple[str, str], Document] = field(default_factory=dict)
    issues: tuple[DocumentIssue, ...] = ()
    warnings: tuple[DocumentIssue, ...] = ()
    memo: dict[str, Setting] = field(default_factory=dict, repr=False)

    @classmethod
    def build(
        cls,
        documents: Iterable[Mapping[str, Any]],
        *,
        default_namespace: str = "default",
        default_mode: str | None = None,
        secrets: Mapping[tuple[str, str], Secret] | None = None,
        places: Sequence[str] = (),
        templated: Iterable[Templated] = (),
    ) -> ClusterObjects:
        """Sort plain documents into what the rules look up. `default_mode` applies where no ConfigMap says another.

        `places` are the files and lines of the documents, and `templated` what is not rendered: for messages only.

        `secrets`, where given, stand in for those of the documents, by namespace and name.

        Documents that name no namespace are in `default_namespace`; of two with the same name the later one wins.
        """
        sorter = _Sorter(default_namespace, default_mode, places)
        for index, document in enumerate(documents):
            sorter.take(index, document)
        sorter.secrets = dict(secrets) if secrets is not None else with_data_connections(sorter.secrets)
        sorter.take_templated(templated)
        return sorter.objects()

    def local_models(self, namespace: str) -> tuple[LocalModel, ...]:
        """Cached models that a namespace sees, its own first."""
        return tuple(model for scope in (namespace, "") for model in self.models if model.namespace == scope)

    def setting(self, namespace: str) -> Setting:
        """What storage depends on, seen from one namespace."""
        if namespace not in self.memo:
            vault = Vault(
                lambda name: self.secrets.get((namespace, name)),
                lambda name: self.accounts.get((namespace, name)) or self._implied_account(namespace, name),
                self.config,
            )
            self.memo[namespace] = Setting(vault, self.storage_containers, namespace)
        return self.memo[namespace]

    def _implied_account(self, namespace: str, name: str) -> ServiceAccount | None:
        """Every namespace has the account `default`, and OpenShift AI makes one for a connection to S3."""
        if name == "default":
            return ServiceAccount(name)
        secret = self.secrets.get((namespace, name.removesuffix(ACCOUNT_SUFFIX)))
        is_made = name.endswith(ACCOUNT_SUFFIX) and secret and connection_type(secret.annotations) == "s3"
        return ServiceAccount(name, (secret.name,)) if secret and is_made else None


class _Sorter:
    def __init__(self, default_namespace: str, default_mode: str | None, places: Sequence[str]) -> None:
        self._places = places
        self._templated: list[Runtime] = []
        self._namespace = default_namespace
        self._mode = default_mode
        self._issues: list[DocumentIssue] = []
        self._warnings: list[DocumentIssue] = []
        self._runtimes: list[tuple[int, Runtime]] = []
        self.secrets: dict[tuple[str, str], Secret] = {}
        self._accounts: dict[tuple[str, str], ServiceAccount] = {}
        self._containers: dict[str, StorageContainer] = {}
        self._models: dict[tuple[str, str], LocalModel] = {}
        self._profiles: dict[tuple[str, str], Document] = {}
        self._config_map: tuple[int, Mapping[str, str]] | None = None

    def take(self, index: int, document: Document) -> None:
        kind = document.get("kind")
        if kind == "InferenceService" or (kind == "Secret" and "sops" in document):
            # What SOPS encrypted is no document for a cluster yet.
            return
        clean, flaws = api_server.read(document)
        self._issues += [DocumentIssue(index, flaw.path, flaw.message) for flaw in flaws]
        self._warnings += [DocumentIssue(index, each.path, each.message) for each in later_fields(clean)]
        metadata = clean.get("metadata") or {}
        name = metadata.get("name", "") if isinstance(metadata, dict) else ""
        namespace = "" if kind in _CLUSTER_SCOPED else (metadata.get("namespace") or self._namespace) if name else ""
        if kind in ("ServingRuntime", "ClusterServingRuntime"):
            annotations = metadata.get("annotations") or {}
            place = self._places[index] if index < len(self._places) else ""
            runtime = Runtime(kind, namespace, name, clean.get("spec") or {}, annotations, place)
            self._runtimes.append((index, runtime))
        elif kind == "Secret":
            self.secrets[namespace, name] = decode_secret(clean)
        elif kind == "ServiceAccount":
            names = tuple(item.get("name", "") for item in clean.get("secrets") or ())
            self._accounts[namespace, name] = ServiceAccount(name, names, metadata.get("annotations") or {})
        elif kind == "ClusterStorageContainer":
            self._containers[name] = StorageContainer(name, clean.get("spec") or {}, clean.get("disabled") is True)
        elif kind in ("LocalModelCache", "LocalModelNamespaceCache"):
            spec = clean.get("spec") or {}
            groups = tuple(spec.get("nodeGroups") or ())
            self._models[namespace, name] = LocalModel(name, namespace, spec.get("sourceModelUri", ""), groups)
        elif kind == "HardwareProfile" and isinstance(spec := clean.get("spec"), dict):
            self._profiles[namespace, name] = spec
        elif kind == "ConfigMap" and name == "inferenceservice-config":
            self._config_map = (index, clean.get("data") or {})

    def take_templated(self, templated: Iterable[Templated]) -> None:
        """Runtimes of objects that are not rendered."""
        for document, place, holder in templated:
            kind, clean = document.get("kind"), api_server.read(document)[0]
            metadata, spec = clean.get("metadata"), clean.get("spec")
            if kind in ("ServingRuntime", "ClusterServingRuntime") and isinstance(metadata, dict):
                name = str(metadata.get("name", ""))
                self._templated.append(Runtime(kind, "", name, spec or {}, place=place, holder=holder))

    def objects(self) -> ClusterObjects:
        index, data = self._config_map or (0, None)
        settings = config.from_config_map(data, self._mode)
        self._issues += [DocumentIssue(index, ("data", key), message) for key, message in settings.errors]
        self._check_runtimes(settings)
        containers = {DEFAULT_CONTAINER.name: DEFAULT_CONTAINER, **self._containers}
        return ClusterObjects(
            default_namespace=self._namespace,
            config=settings,
            runtimes=Runtimes((runtime for _, runtime in self._runtimes), self._templated),
            secrets=self.secrets,
            accounts=self._accounts,
            storage_containers=tuple(containers[name] for name in sorted(containers)),
            models=tuple(self._models[key] for key in sorted(self._models)),
            profiles=self._profiles,
            issues=tuple(sorted(self._issues, key=lambda issue: issue.index)),
            warnings=tuple(self._warnings),
        )

    def _check_runtimes(self, settings: Config) -> None:
        """Runtimes are refused in the order in which the tree names them; the webhook sees none with a wrong schema."""
        scopes: dict[str, runtime_validation.AppliedRuntimes] = {}
        refused = {issue.index for issue in self._issues}
        for index, runtime in self._runtimes:
            if index in refused:
                continue
            earlier = scopes.setdefault(runtime.namespace, runtime_validation.AppliedRuntimes())
            if message := runtime_validation.runtime_refusal(runtime, earlier, settings):
                self._issues.append(DocumentIssue(index, ("spec",), message))
            else:
                earlier.add(runtime)
