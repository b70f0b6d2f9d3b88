"""Runtime and service → the pod that KServe creates: merge, placeholders, image, metadata, storage, defaults."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from reconciler.kserve import gojson, names, predictor
from reconciler.kserve.agent import inject_agent, request_annotations
from reconciler.kserve.api_server import later
from reconciler.kserve.components import component_problems
from reconciler.kserve.credentials import SCHEME_PLACEHOLDER
from reconciler.kserve.deployment_modes import MultiNodeError, add_head, make_revision
from reconciler.kserve.injection import ResolvedModelSource, Setting, finish_pod, inject_source, inject_sources
from reconciler.kserve.issues import Issue, SpecError, invalid_predictor, pod_path_of
from reconciler.kserve.merge import MergeError, merge_containers, merge_pod_specs
from reconciler.kserve.placeholders import replace_placeholders
from reconciler.kserve.pod import Container, Pod, add_default_fields, set_env
from reconciler.kserve.pod_validation import deployment_problems, service_problems, strategy_problems, word_problems
from reconciler.kserve.predictor import choose_image
from reconciler.kserve.runtime_selection import Runtime, with_server_defaults
from reconciler.kserve.storage import LATER_PREFIXES, StorageError, check_uri, inject_image
from reconciler.kserve.template_syntax import TemplateError
from reconciler.kserve.url import UrlError, host_name
from reconciler.model import ReasonCode

if TYPE_CHECKING:
    from reconciler.kserve.cluster_objects import ClusterObjects

Document = Mapping[str, Any]
_NO_CONTAINERS = "no container configuration found in selected serving runtime"


@dataclass(slots=True)
class Built:
    """A finished pod, its model sources, and what a cluster would refuse when it is created."""

    pod: Pod
    sources: tuple[ResolvedModelSource, ...] = ()
    errors: list[Issue] = field(default_factory=list)
    warnings: list[Issue] = field(default_factory=list)
    cluster_errors: list[Issue] = field(default_factory=list)


def build_pod(service: Document, runtime: Runtime | None, mode: str, cluster: ClusterObjects) -> Built | None:
    """The pod, or None when a model has no runtime. Raises SpecError where KServe stops before it creates anything."""
    return _PodBuilder(service, runtime, mode, cluster).built()


class _PodBuilder:
    def __init__(self, service: Document, runtime: Runtime | None, mode: str, cluster: ClusterObjects) -> None:
        self._service = service
        self._metadata: Document = service["metadata"]
        self._predictor: Document = service["spec"]["predictor"]
        self._runtime = runtime
        self._mode = mode
        self._world = cluster
        self._setting: Setting = cluster.setting(self._metadata["namespace"])
        self._built = Built(Pod())
        self._name: str = self._metadata.get("name", "")
        self._object = names.predictor_name(self._name, self._predictor.get("name", ""))

    def built(self) -> Built | None:
        """KServe's order: annotations, pod spec, metadata, then the Deployment, then the pod webhook."""
        pod, built = self._built.pod, self._built
        annotations = self._own_annotations()
        if "model" in self._predictor and not self._runtime:
            return None
        if self._runtime:
            self._merge(self._runtime)
        else:
            self._take_custom()
        for container in pod.containers:
            set_env(container, "INFERENCE_SERVICE_NAME", self._name)
        self._set_metadata(annotations)
        self._span_nodes()
        self._deploy()
        self._webhook(self._inject)
        self._webhook(lambda: finish_pod(pod, self._world.config))
        self._check_pod()
        return built

    def _inject(self) -> None:
        pod, namespace = self._built.pod, self._metadata["namespace"]
        self._built.sources += inject_source(pod, self._setting)
        inject_agent(pod, "", namespace, self._predictor.get("logger"), self._setting.vault)
        inject_image(pod, self._world.config)

    def _webhook(self, step: Callable[[], None]) -> None:
        """One step of the pod webhook; a pod that it refuses keeps what the steps before have done."""
        try:
            step()
        except StorageError as error:
            text, path = f"the pod is refused: {error}", ("spec", "predictor")
            self._built.errors.append(Issue(ReasonCode.FAILED_CREATE, text, path, absent=error.absent))

    # ------------------------------------------------------------ before the pod spec

    def _own_annotations(self) -> dict[str, str]:
        """The service's annotations that reach the pod, and those that ask the pod webhook for something."""
        given = self._metadata.get("annotations") or {}
        disallowed = self._world.config.disallowed
        annotations = {key: value for key, value in given.items() if key not in disallowed}
        annotations |= request_annotations(self._name, self._predictor)
        self._ask_for_storage(annotations)
        confidential = predictor.confidential(self._predictor)
        if confidential.get("enabled"):
            annotations[names.CONFIDENTIAL] = "true"
            if confidential.get("resourceId"):
                annotations[names.CONFIDENTIAL_RESOURCE] = confidential["resourceId"]
        return annotations

    def _ask_for_storage(self, annotations: dict[str, str]) -> None:
        spec, uri = predictor.storage_spec(self._predictor), predictor.storage_uri(self._predictor)
        at = ("spec", "predictor", "model")
        if spec is not None:
            annotations[names.STORAGE_SPEC] = "true"
            if "parameters" in spec:
                annotations[names.STORAGE_SPEC_PARAM] = gojson.dumps(dict(sorted(spec["parameters"].items())))
            if "key" in spec:
                annotations[names.STORAGE_SPEC_KEY] = spec["key"]
            if "path" in spec:
                annotations[names.SOURCE_URI] = SCHEME_PLACEHOLDER + spec["path"].removeprefix("/")
        if uri is None:
            return
        if names.SOURCE_URI in annotations:
            raise SpecError(
                ReasonCode.INVALID_STORAGE, "must provide only one of storageUri and storage.path", *at, "storage"
            )
        annotations[names.SOURCE_URI] = uri
        try:
            check_uri(uri, self._setting.containers)
        except StorageError as error:
            raise SpecError(ReasonCode.INVALID_STORAGE, str(error), *at, "storageUri") from None
        if uri.startswith(LATER_PREFIXES):
            self._built.warnings.append(later(f"{uri.split('://')[0]}://", *at, "storageUri"))
        if self._predictor.get("storageContainerName"):
            annotations[names.STORAGE_CONTAINER_NAME] = self._predictor["storageContainerName"]

    # ------------------------------------------------------------ pod spec

    def _merge(self, runtime: Runtime) -> None:
        pod, containers = self._built.pod, runtime.spec.get("containers") or ()
        if not containers:
            raise invalid_predictor(_NO_CONTAINERS, "spec", "predictor", "model")
        base = predictor.container_named(containers, names.KSERVE_CONTAINER)
        if base is None:
            message = f"failed to find {names.KSERVE_CONTAINER} in ServingRuntime containers"
            raise invalid_predictor(message, "spec", "predictor", "model")
        model, self._metadata = with_server_defaults(self._predictor["model"], self._metadata, runtime)
        own = {key: value for key, value in model.items() if key not in _MODEL_FIELDS}
        merged = merge_containers(base, own)
        serving = self._filled(merged, runtime)
        serving["image"] = choose_image(serving, model.get("runtimeVersion"), runtime.name, runtime.annotations)
        try:
            fields = merge_pod_specs(runtime.spec, self._predictor)
        except MergeError as error:
            detail = f"failed to consolidate serving runtime PodSpecs. Detail: {error}"
            raise invalid_predictor(detail, "spec", "predictor") from None
        pod.volumes = list(fields.pop("volumes", ()))
        pod.init_containers = [dict(each) for each in fields.pop("initContainers", ())]
        pod.fields = fields
        pod.containers = [serving, *self._others(runtime, containers)]

    def _filled(self, container: Document, runtime: Runtime) -> Container:
        try:
            return dict(replace_placeholders(container, self._metadata))
        except TemplateError as error:
            message = f"failed to replace placeholders in serving runtime {runtime.name} Container {container['name']}"
            raise invalid_predictor(message, "spec", "predictor", "model", detail=str(error)) from None

    def _others(self, runtime: Runtime, containers: Sequence[Document]) -> list[Container]:
        """The transformer, the runtime's other containers, the predictor's own; sidecars are not merged."""
        own: Sequence[Document] = self._predictor.get("containers") or ()
        theirs = predictor.container_named(containers, names.TRANSFORMER_CONTAINER)
        mine = predictor.container_named(own, names.TRANSFORMER_CONTAINER)
        both = merge_containers(theirs, mine) if theirs and mine else theirs or mine
        found = [self._filled(both, runtime)] if both else []
        found += [dict(each) for each in containers if each.get("name") not in _SERVING]
        return found + [dict(each) for each in own if each.get("name") != names.TRANSFORMER_CONTAINER]

    def _take_custom(self) -> None:
        """A custom predictor: the pod spec as it is, with the kserve-container moved to the front place."""
        pod, own = self._built.pod, [dict(each) for each in self._predictor["containers"]]
        serving = predictor.container_named(own, names.KSERVE_CONTAINER)
        if serving is None:
            # KServe dereferences nil here.
            raise SpecError(ReasonCode.INVALID_PREDICTOR_SPEC, "the predictor has no container named kserve-container")
        fields = merge_pod_specs({}, self._predictor)
        pod.volumes = list(fields.pop("volumes", ()))
        pod.init_containers = [dict(each) for each in fields.pop("initContainers", ())]
        pod.fields = fields
        pod.containers = [dict(serving), *own[1:]]

    # ------------------------------------------------------------ metadata, nodes, Deployment

    def _set_metadata(self, annotations: Mapping[str, str]) -> None:
        """Labels and annotations: the runtime's spec, under the service's, under the predictor's."""
        pod, spec = self._built.pod, self._runtime.spec if self._runtime else {}
        disallowed = self._world.config.disallowed
        pod.labels = {
            **(spec.get("labels") or {}),
            **(self._metadata.get("labels") or {}),
            **(self._predictor.get("labels") or {}),
            names.SERVICE_LABEL: self._name,
            "component": "predictor",
        }
        theirs = {key: value for key, value in (spec.get("annotations") or {}).items() if key not in disallowed}
        own = {k: v for k, v in (self._predictor.get("annotations") or {}).items() if k not in disallowed}
        pod.annotations = {**theirs, **annotations, **own}

    def _span_nodes(self) -> None:
        if "workerSpec" not in self._predictor:
            return
        if self._runtime is None:
            # KServe dereferences nil here.
            text = "workerSpec needs predictor.model: a custom predictor cannot span nodes"
            raise SpecError(ReasonCode.INVALID_WORKER_SPEC, text, "spec", "predictor", "workerSpec")
        try:
            types = self._world.config.gpu_types
            add_head(self._built.pod, self._name, self._predictor, self._runtime.spec, types)
        except MultiNodeError as error:
            at = ("spec", "predictor", "workerSpec")
            if error.reason:
                raise invalid_predictor(str(error), *at) from None
            raise SpecError(ReasonCode.INVALID_WORKER_SPEC, str(error), *at) from None
        self._built.pod.labels["isvc.generation"] = "1"

    def _deploy(self) -> None:
        pod, built = self._built.pod, self._built
        # A document without one of the two was refused before.
        if uris := [each for each in self._predictor.get("storageUris") or () if "uri" in each and "mountPath" in each]:
            name = self._predictor.get("storageContainerName")
            try:
                built.sources = inject_sources(pod, uris, name, self._setting)
            except StorageError as error:
                path = ("spec", "predictor", "storageUris")
                built.errors.append(Issue(ReasonCode.RECONCILE_FAILED, str(error), path, absent=error.absent))
        if self._mode == names.STANDARD:
            pod.labels["app"] = f"isvc.{self._object}"
            add_default_fields(pod)
            self._check_deployment()
            built.errors += component_problems(self._service, self._world.config)
        elif self._mode == names.KNATIVE:
            make_revision(pod, self._predictor, self._world.config)

    def _check_deployment(self) -> None:
        built, annotations = self._built, self._metadata.get("annotations") or {}
        mode = annotations.get(names.DEPLOYMENT_MODE, names.STANDARD)
        serving = built.pod.container(names.TRANSFORMER_CONTAINER) or built.pod.containers[0]
        problems = [f'Service "{self._object}" is invalid: {text}' for text in service_problems(serving)]
        if mode not in (names.STANDARD, names.KNATIVE):
            problems.append(f"unsupported deployment mode for workload: {mode}")
        try:
            host_name(self._object, self._metadata, self._world.config)
        except UrlError as error:
            problems.append(f"failed creating host name: {error}")
        for text in strategy_problems(self._predictor.get("deploymentStrategy")):
            message = f'fails to reconcile predictor: Deployment.apps "{self._object}" is invalid: {text}'
            built.errors.append(Issue(ReasonCode.INVALID_FIELD, message, ("spec", "predictor", "deploymentStrategy")))
        for text in self._refused(built.pod):
            message = f'fails to reconcile predictor: Deployment.apps "{self._object}" is invalid: {text}'
            built.errors.append(Issue(ReasonCode.RECONCILE_FAILED, message, ("spec", "predictor"), pod_path_of(text)))
        for text in problems:
            message = f"fails to reconcile predictor: {text}"
            built.errors.append(Issue(ReasonCode.RECONCILE_FAILED, message, ("spec", "predictor")))
        if annotations.get(names.AUTOSCALER_CLASS) == "keda":
            text = 'no matches for kind "ScaledObject" in version "keda.sh/v1alpha1"'
            message = f"fails to reconcile predictor: failed to get existing KEDA autoscaler: {text}"
            built.cluster_errors.append(Issue(ReasonCode.RECONCILE_FAILED, message))

    def _refused(self, pod: Pod) -> Iterator[str]:
        yield from deployment_problems(pod)
        yield from word_problems(pod)

    # ------------------------------------------------------------ the pod webhook's last changes

    def _check_pod(self) -> None:
        """What the API server refuses when the pod is created: a missing account, two mounts at one place."""
        account = self._built.pod.fields.get("serviceAccountName", "default")
        if self._setting.vault.account(account) is None:
            where = f"{self._metadata['namespace']}/{account}"
            text = f'error looking up service account {where}: serviceaccount "{account}" not found'
            self._built.cluster_errors.append(
                Issue(ReasonCode.FAILED_CREATE, text, ("spec", "predictor", "serviceAccountName"))
            )
        for index, container in enumerate(self._built.pod.containers):
            paths = [mount.get("mountPath") for mount in container.get("volumeMounts") or ()]
            double = next((at for at, path in enumerate(paths) if path in paths[:at]), None)
            if double is not None and not self._built.errors:
                text = f'volumeMounts: Invalid value: "{paths[double]}": must be unique'
                message = f"the pod is invalid: {container.get('name', '')}: {text}"
                mount = ("containers", index, "volumeMounts", double)
                self._built.errors.append(Issue(ReasonCode.FAILED_CREATE, message, ("spec", "predictor"), mount))


_SERVING = (names.KSERVE_CONTAINER, names.TRANSFORMER_CONTAINER)
# Further fields of predictor.model, next to the container's own.
_MODEL_FIELDS = frozenset(
    {"modelFormat", "runtime", "storageUri", "runtimeVersion", "protocolVersion", "storage", "confidential"}
)
