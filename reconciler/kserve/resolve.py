"""One InferenceService in the tree it came from → what KServe would run for it: the entry point of this package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from reconciler.kserve import api_server, names, predictor
from reconciler.kserve.api_server import deployment_mode, later_fields, with_defaults
from reconciler.kserve.build import Built, build_pod
from reconciler.kserve.cluster_objects import ClusterObjects
from reconciler.kserve.issues import Issue, SpecError, invalid_spec
from reconciler.kserve.openshift_ai import admit
from reconciler.kserve.runtime_selection import (
    Refusal,
    Runtime,
    hint_for_none,
    hint_for_refused,
    hint_for_unknown,
    protocol_of,
    refuse_named,
    refuse_none_found,
    refuse_unknown,
)
from reconciler.kserve.url import UrlError, service_url
from reconciler.kserve.validation import confidential_warnings, refusal
from reconciler.model import ReasonCode

__all__ = ["ClusterObjects", "Issue", "Resolved", "ResolvedStorage", "RuntimeRef", "resolve"]


@dataclass(frozen=True, slots=True)
class RuntimeRef:
    """The runtime that was chosen. `namespace` is empty for a ClusterServingRuntime."""

    kind: str
    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class ResolvedStorage:
    """One model source as KServe's storage initializer gets it. `env` are the container's env entries, as documents."""

    uri: str
    mount_path: str = names.MODEL_MOUNT
    read_only: bool = True
    env: tuple[Mapping[str, Any], ...] = ()


def is_stopped(annotations: Mapping[str, str]) -> bool:
    """Is the service stopped by its annotation? KServe takes any case."""
    return annotations.get(names.STOP, "").lower() == "true"


def is_absent_secret(issue: Issue) -> bool:
    """Would the pod be made, if only the cluster has a Secret that the tree does not hold?"""
    return issue.reason is ReasonCode.FAILED_CREATE and issue.absent is not None and not issue.absent.key


@dataclass(frozen=True, slots=True)
class Resolved:
    """What KServe makes of one service. A field that could not be computed is empty; `errors` say why.

    `cluster_errors` are what KServe needs in addition to the documents (KEDA, a Secret that is not in git): not their
    fault.
    """

    defaulted: Mapping[str, Any]
    runtime: RuntimeRef | None = None
    candidates: tuple[str, ...] = ()
    protocol: str = ""
    deployment_mode: str = ""
    model_name: str = ""
    pod: Mapping[str, Any] = field(default_factory=dict)
    storage: tuple[ResolvedStorage, ...] = ()
    url: str = ""
    model_status: Mapping[str, Any] = field(default_factory=dict)
    errors: tuple[Issue, ...] = ()
    warnings: tuple[Issue, ...] = ()
    cluster_errors: tuple[Issue, ...] = ()


def resolve(service: Mapping[str, Any], cluster: ClusterObjects, *, may_use_secrets: bool = True) -> Resolved:
    """Never raises for bad input: `errors` say what is wrong.

    Connections of OpenShift AI are Secrets: where the service `may_use_secrets` of its namespace, they are followed.
    """
    admitted = admit(service, cluster.default_namespace, cluster.secrets if may_use_secrets else {}, cluster.profiles)
    clean, flaws = api_server.read(admitted.service, mutated=True)
    errors = [Issue(ReasonCode.INVALID_DOCUMENT, flaw.message, flaw.path) for flaw in flaws]
    metadata = {"namespace": cluster.default_namespace, **(clean.get("metadata") or {})}
    defaulted = with_defaults(
        {**clean, "metadata": metadata}, cluster.config, cluster.local_models(metadata["namespace"])
    )
    if refused := refusal(defaulted, cluster.config):
        errors.append(Issue(ReasonCode.ADMISSION_DENIED, str(refused), refused.path))
    found = _Resolution(defaulted, cluster, errors).resolved()
    warnings, absent = (*admitted.warnings, *found.warnings), (*admitted.absent, *found.cluster_errors)
    return replace(found, warnings=warnings, cluster_errors=absent) if admitted.warnings or admitted.absent else found


class _Resolution:
    """The steps for one service, in KServe's order; each keeps what it could compute."""

    def __init__(self, defaulted: Mapping[str, Any], cluster: ClusterObjects, errors: list[Issue]) -> None:
        self._service = defaulted
        self._world = cluster
        self._errors = errors
        self._warnings: list[Issue] = [*later_fields(defaulted), *confidential_warnings(defaulted)]
        self._cluster_errors: list[Issue] = []
        self._metadata: Mapping[str, Any] = defaulted["metadata"]
        self._predictor: Mapping[str, Any] = (defaulted.get("spec") or {}).get("predictor") or {}
        self._runtime: Runtime | None = None
        self._failure: Mapping[str, str] | None = None
        self._is_stopped = False

    def resolved(self) -> Resolved:
        annotations = self._metadata.get("annotations") or {}
        mode = deployment_mode(annotations, self._world.config)
        candidates = self._choose_runtime()
        built = self._build(mode)
        url = self._url(mode)
        self._look_at_the_cluster(annotations)
        return Resolved(
            defaulted=self._service,
            runtime=_ref(self._runtime),
            candidates=candidates,
            protocol=self._protocol(),
            deployment_mode=mode,
            model_name=predictor.model_name(self._service),
            pod=built.pod.document() if built else {},
            storage=tuple(ResolvedStorage(s.uri, s.mount_path, s.read_only, s.env) for s in built.sources)
            if built
            else (),
            url="" if self._is_stopped else url,
            model_status=self._model_status(),
            errors=tuple(issue for issue in self._errors if not is_absent_secret(issue)),
            warnings=tuple(self._warnings),
            cluster_errors=(*self._cluster_errors, *filter(is_absent_secret, self._errors)),
        )

    def _fail(self, reason: ReasonCode, message: str, *path: Any) -> None:
        self._errors.append(Issue(reason, message, path))

    # ------------------------------------------------------------ runtime

    def _choose_runtime(self) -> tuple[str, ...]:
        if "model" not in self._predictor:
            return ()
        namespace = self._metadata["namespace"]
        supporting = self._world.runtimes.supporting(self._predictor, namespace)
        model = self._predictor["model"]
        refused = self._named(model, namespace) if "runtime" in model else self._first(model, supporting)
        if refused:
            self._failure = {"reason": refused.reason, "message": refused.status}
            at = ("spec", "predictor", "model", *(["runtime"] if "runtime" in model else []))
            self._fail(refused.reason, refused.event + self._hint(model, namespace), *at)
        return tuple(each.name for each in supporting)

    def _hint(self, model: Mapping[str, Any], namespace: str) -> str:
        """Hints in addition to KServe's own event."""
        runtimes = self._world.runtimes
        if "runtime" not in model:
            return hint_for_none(self._predictor, namespace, runtimes)
        name = model["runtime"]
        runtime = runtimes.named(name, namespace) or self._displayed(name, namespace)
        return hint_for_refused(runtime, model) if runtime else hint_for_unknown(name, namespace, runtimes)

    def _named(self, model: Mapping[str, Any], namespace: str) -> Refusal | None:
        name = model["runtime"]
        runtime = self._world.runtimes.named(name, namespace) or self._displayed(name, namespace)
        if runtime is None:
            return refuse_unknown(name)
        refused = refuse_named(runtime, model)
        self._runtime = None if refused else runtime
        return refused

    def _displayed(self, title: str, namespace: str) -> Runtime | None:
        """Unlike KServe: a name that matches no runtime may be the display name of exactly one."""
        found = self._world.runtimes.displayed_as(title, namespace)
        if len(found) != 1:
            return None
        text = (
            f'"{title}" is the display name of {found[0].kind} {found[0].name}, which is used; KServe itself expects '
        )
        path = ("spec", "predictor", "model", "runtime")
        self._warnings.append(Issue(ReasonCode.AMBIGUOUS_DISPLAY_NAME, f"{text}runtime: {found[0].name}", path))
        return found[0]

    def _first(self, model: Mapping[str, Any], supporting: tuple[Runtime, ...]) -> Refusal | None:
        if not supporting:
            return refuse_none_found(model)
        chosen = supporting[0]
        # KServe asks for its annotations by name, and then the namespace's own runtime comes first.
        namesake = self._world.runtimes.named(chosen.name, self._metadata["namespace"]) or chosen
        self._runtime = replace(chosen, annotations=namesake.annotations) if namesake is not chosen else chosen
        return None

    def _protocol(self) -> str:
        model = self._predictor.get("model")
        if model is not None and self._runtime:
            return protocol_of(model, self._runtime)
        return predictor.protocol(self._predictor)

    # ------------------------------------------------------------ pod

    def _build(self, mode: str) -> Built | None:
        if mode == names.MODEL_MESH:
            self._fail(
                ReasonCode.MODEL_MESH, "KServe leaves a service in mode ModelMesh to ModelMesh and deploys nothing"
            )
            return None
        if not predictor.implementations(self._predictor):
            return None
        try:
            built = build_pod(self._service, self._runtime, mode, self._world)
        except SpecError as error:
            # KServe looks at the storage before it looks for a runtime.
            self._failure = error.failure
            self._errors.append(Issue(error.reason, str(error), error.path))
            return None
        if built is None:
            return None
        self._errors += built.errors
        self._warnings += built.warnings
        self._cluster_errors += built.cluster_errors
        return built

    def _look_at_the_cluster(self, annotations: Mapping[str, str]) -> None:
        """What keeps a good service from running: it is stopped, or asks for a mode that its cluster has no need of."""
        asked, default = annotations.get(names.DEPLOYMENT_MODE), self._world.config.default_mode
        if asked == names.KNATIVE != default:
            name = self._metadata.get("name", "")
            text = f"the resolved deployment mode of InferenceService '{name}' is Knative"
            text = f"{text}, but Knative Serving is not available where {default} is the default mode"
            at = ("metadata", "annotations", names.DEPLOYMENT_MODE)
            self._cluster_errors.append(Issue(ReasonCode.SERVERLESS_MODE_REJECTED, text, at))
        # KServe looks for a runtime first: a service whose spec is invalid is not stopped.
        if is_stopped(annotations) and not self._failure:
            self._is_stopped = True
            text = f"{names.STOP} is true: KServe keeps the service and runs nothing for it"
            self._cluster_errors.append(Issue(ReasonCode.STOPPED, text, ("metadata", "annotations", names.STOP)))

    def _url(self, mode: str) -> str:
        try:
            return service_url(self._metadata, self._world.config, mode)
        except UrlError as error:
            self._fail(ReasonCode.RECONCILE_FAILED, str(error), "metadata", "name")
            return ""

    def _model_status(self) -> Mapping[str, Any]:
        if self._failure:
            return invalid_spec(self._failure)
        # A pod that cannot be created looks to KServe like one that is still to come.
        if any(issue.reason is not ReasonCode.FAILED_CREATE for issue in (*self._errors, *self._cluster_errors)):
            return {"transitionStatus": "", "states": None, "lastFailureInfo": None}
        states = {"activeModelState": "", "targetModelState": "Pending"}
        return {"transitionStatus": "InProgress", "states": states, "lastFailureInfo": None}


def _ref(runtime: Runtime | None) -> RuntimeRef | None:
    return RuntimeRef(runtime.kind, runtime.namespace, runtime.name) if runtime else None
