"""What KServe's validating webhook refuses about an InferenceService: the first broken rule speaks, as there."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from reconciler.kserve import names
from reconciler.kserve.components import check_canaries, check_extension
from reconciler.kserve.config import Config
from reconciler.kserve.issues import Issue
from reconciler.kserve.predictor import (
    ONE_OF_PREDICTOR,
    confidential,
    env_value,
    framework_container,
    implementation_problem,
    implementations,
    storage_uri,
    unknown_gpu,
)
from reconciler.kserve.storage import common_parent
from reconciler.model import ReasonCode

Document = Mapping[str, Any]
_NAME = "[a-z]([-a-z0-9]*[a-z0-9])?"
_IN_VAIN = {
    "oci": "OCI image decryption is handled by the container runtime via runtimeClassName",
    "pvc": "the storage-initializer is not injected for PVC volumes",
}
_BLOCKED_ENV = "PYTHONPATH"
_RESOURCE_ID = re.compile(r"kbs:///[a-zA-Z0-9_.-]+/[a-zA-Z0-9_.-]+/[a-zA-Z0-9_.-]+")
_ONE_OF = {
    "predictor": ONE_OF_PREDICTOR,
    "transformer": "exactly one of [PodSpec, ComponentExtensionSpec] must be specified in TransformerSpec",
    "explainer": "exactly one of [ART, PodSpec, ComponentExtensionSpec] must be specified in ExplainerSpec",
}
NO_IMPLEMENTATION = "KServe's webhook panics on this (index out of range [0] with length 0)"


class WebhookDenied(Exception):
    """KServe refuses the service; the message is KServe's, `path` the field at fault where it is clear."""

    def __init__(self, message: str, *path: Any) -> None:
        super().__init__(message)
        self.path = path


def refusal(service: Document, config: Config) -> WebhookDenied | None:
    """The webhook's message about a service that has its defaults; None when it is accepted."""
    try:
        _check(service, config)
    except WebhookDenied as refused:
        return refused
    return None


def _check(service: Document, config: Config) -> None:
    metadata, spec = service.get("metadata") or {}, service.get("spec") or {}
    name, annotations = metadata.get("name", ""), metadata.get("annotations") or {}
    predictor = spec.get("predictor") or {}
    _check_name(name)
    _check_autoscaler(annotations)
    if not implementations(predictor):
        _crash(predictor)
    _check_blocked_env(name, spec)
    _check_multi_node(name, predictor, annotations, config)
    _check_collocation(predictor)
    for kind in names.IMPLEMENTATIONS:
        if (predictor.get(kind) or {}).get("name"):
            raise WebhookDenied(
                "the 'name' field is not allowed in standard predictor", "spec", "predictor", kind, "name"
            )
    for component in ("transformer", "explainer", "predictor"):
        if component in spec:
            _check_sources(spec[component], component)
    _check_confidential(predictor)
    for component in ("predictor", "transformer", "explainer"):
        if component in spec:
            _check_component(component, spec[component], annotations)
    check_canaries(spec, annotations.get(names.DEPLOYMENT_MODE, ""), WebhookDenied)


def _crash(predictor: Document) -> None:
    """KServe itself answers with a panic of its defaulting webhook; we refuse with what it means to say."""
    raise WebhookDenied(f"{_ONE_OF['predictor']}; {NO_IMPLEMENTATION}", "spec", "predictor")


def _check_name(name: str) -> None:
    if not re.fullmatch(_NAME, name):
        raise WebhookDenied(
            f'the InferenceService "{name}" is invalid: a InferenceService name must consist of lower case '
            "alphanumeric characters or '-', and must start with alphabetical character. "
            f'(e.g. "my-name" or "abc-123", regex used for validation is \'{_NAME}\')',
            "metadata",
            "name",
        )


def _check_autoscaler(annotations: Mapping[str, str]) -> None:
    value = annotations.get(names.AUTOSCALER_CLASS)
    if value is not None and value not in ("hpa", "external", "keda", "none"):
        path = ("metadata", "annotations", names.AUTOSCALER_CLASS)
        raise WebhookDenied(f"[{value}] is not a supported autoscaler class type", *path)


# ---------------------------------------------------------------- environment


def _check_blocked_env(name: str, spec: Document) -> None:
    for path, container in _containers(spec):
        if message := blocked_env(container):
            raise WebhookDenied(f'the InferenceService "{name}" is invalid: {message}', *path)


def blocked_env(container: Document) -> str:
    """Why a container's variables are refused; empty when they are fine."""
    if env_value(container.get("env"), _BLOCKED_ENV) is None:
        return ""
    return f'setting {_BLOCKED_ENV} in container "{container.get("name", "")}" is not allowed for security reasons'


def _containers(spec: Document) -> Iterator[tuple[tuple[Any, ...], Document]]:
    """Every container of a service, in the order in which KServe looks at them."""
    predictor = spec.get("predictor") or {}
    at: tuple[Any, ...] = ("spec", "predictor")
    yield from _listed(predictor, at)
    if container := framework_container(predictor):
        yield (*at, "model"), container
    yield from _listed(predictor.get("workerSpec") or {}, (*at, "workerSpec"))
    for component in ("transformer", "explainer"):
        yield from _listed(spec.get(component) or {}, ("spec", component))
    if "art" in (spec.get("explainer") or {}):
        yield ("spec", "explainer", "art"), spec["explainer"]["art"]


def _listed(holder: Document, at: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Document]]:
    for key in ("containers", "initContainers"):
        for index, container in enumerate(holder.get(key) or ()):
            yield (*at, key, index), container


def _check_collocation(predictor: Document) -> None:
    for index, container in enumerate(predictor.get("containers") or ()):
        if container.get("name") == names.TRANSFORMER_CONTAINER:
            if env_value(container.get("env"), "STORAGE_URI") is not None:
                path = ("spec", "predictor", "containers", index)
                raise WebhookDenied("storage uri should not be specified in transformer container", *path)
            return


# ---------------------------------------------------------------- several nodes


def _check_multi_node(name: str, predictor: Document, annotations: Mapping[str, str], config: Config) -> None:
    worker = predictor.get("workerSpec")
    if worker is None:
        return
    what = f'the InferenceService "{name}" is invalid: '
    at = ("spec", "predictor", "workerSpec")
    if len(worker.get("containers") or ()) > 1:
        raise WebhookDenied(what + "setting multiple containers in workerSpec is not allowed", *at, "containers", 1)
    if "model" in predictor:
        _check_head(what, predictor["model"], annotations, config)
    for key, title in (("pipelineParallelSize", "Pipeline"), ("tensorParallelSize", "Tensor")):
        if worker.get(key, 1) < 1:
            text = f"WorkerSpec.{title}ParallelSize cannot be less than 1({worker[key]})"
            raise WebhookDenied(what + text, *at, key)
    for container in worker.get("containers") or ():
        _check_gpus(what, container, annotations, config)


def _check_head(what: str, model: Document, annotations: Mapping[str, str], config: Config) -> None:
    at = ("spec", "predictor", "model")
    for variable in ("PIPELINE_PARALLEL_SIZE", "TENSOR_PARALLEL_SIZE"):
        if env_value(model.get("env"), variable) is not None:
            raise WebhookDenied(what + f"setting {variable} in environment variables is not allowed", *at, "env")
    _check_gpus(what, model, annotations, config)
    uri = model.get("storageUri")
    if uri is None:
        raise WebhookDenied(what + "StorageURI must be set for multinode enabled", *at)
    scheme = uri.split("://")[0]
    if scheme not in ("pvc", "oci"):
        raise WebhookDenied(
            what + f"Multinode only supports 'pvc' and 'oci' Storage Protocol({scheme})", *at, "storageUri"
        )
    autoscaler = annotations.get(names.AUTOSCALER_CLASS, "")
    if autoscaler != "none":
        path = ("metadata", "annotations", names.AUTOSCALER_CLASS)
        raise WebhookDenied(what + f"Multinode only supports 'none' autoscaler({autoscaler})", *path)


def _check_gpus(what: str, container: Document, annotations: Mapping[str, str], config: Config) -> None:
    if unknown_gpu(container.get("resources") or {}, annotations, config, WebhookDenied):
        raise WebhookDenied(
            what + "Unknown GPU resource type. Set 'serving.kserve.io/gpu-resource-types' annotation to use custom "
            "gpu resource type"
        )


# ---------------------------------------------------------------- sources and components


def _check_sources(component: Document, name: str) -> None:
    uris: Sequence[Document] = component.get("storageUris") or ()
    if uris and _own_uri(component, name) is not None:
        raise WebhookDenied("Setting both StorageURI and StorageURIs is not supported.", "spec", name, "storageUris")
    for index, item in enumerate(uris):
        if message := _mount_problem(item):
            raise WebhookDenied(message, "spec", name, "storageUris", index)
    _check_common_parent(uris, name)


def _own_uri(component: Document, name: str) -> str | None:
    if name == "predictor":
        return storage_uri(component)
    if "art" in component:
        return component["art"].get("storageUri") or None
    containers = component.get("containers") or ()
    return env_value(containers[0].get("env"), "STORAGE_URI") if containers else None


def _mount_problem(item: Document) -> str:
    uri, path = item.get("uri", ""), item.get("mountPath", "")
    if not uri:
        return "storage URI cannot be empty"
    if path == "/":
        return "storage path cannot be empty"
    if not path.startswith("/"):
        return f"storage path must be absolute: {path}"
    return f"storage path cannot contain '..' for security reasons: {path}" if ".." in path else ""


def _check_common_parent(uris: Sequence[Document], name: str) -> None:
    paths = [item["mountPath"] for item in uris if not item["uri"].startswith("pvc://")]
    claims = [item["mountPath"] for item in uris if item["uri"].startswith("pvc://")]
    if len(paths) <= 1:
        return
    if len(set(claims)) < len(claims):
        raise WebhookDenied("PVC storage paths must be unique", "spec", name, "storageUris")
    if common_parent(paths) == "/":
        raise WebhookDenied(
            f"storage paths must have a common parent directory. Current paths: [{' '.join(paths)}] have no common "
            "parent beyond root",
            "spec",
            name,
            "storageUris",
        )


def _check_confidential(predictor: Document) -> None:
    spec = confidential(predictor)
    if not spec.get("enabled"):
        return
    at = ("spec", "predictor", "model", "confidential")
    if not storage_uri(predictor):
        raise WebhookDenied("confidential model serving requires storageUri to be set", *at)
    resource = spec.get("resourceId") or ""
    if resource and not _RESOURCE_ID.fullmatch(resource):
        text = "must be in the format kbs:///<repo>/<type>/<tag>"
        raise WebhookDenied(f'spec.predictor.confidential.resourceId: Invalid value: "{resource}": {text}', *at)


def is_decrypted(service: Document) -> bool:
    """Does its model need an enclave? KServe decrypts only what its storage initializer fetches."""
    predictor = (service.get("spec") or {}).get("predictor") or {}
    return bool(confidential(predictor).get("enabled")) and not any(confidential_warnings(service))


def confidential_warnings(service: Document) -> Iterator[Issue]:
    """The webhook's message where `confidential` changes nothing."""
    predictor = (service.get("spec") or {}).get("predictor") or {}
    if not implementations(predictor) or not confidential(predictor).get("enabled"):
        return
    scheme = (storage_uri(predictor) or "").partition("://")[0]
    if why := _IN_VAIN.get(scheme):
        at = ("spec", "predictor", implementations(predictor)[0], "confidential")
        yield Issue(ReasonCode.NO_EFFECT, f"confidential has no effect with {scheme.upper()} URIs; {why}", at)


def component_implementations(name: str, component: Document) -> list[str]:
    """Implementations of a predictor, a transformer or an explainer."""
    if name == "predictor":
        return implementations(component)
    found = ["art"] if name == "explainer" and "art" in component else []
    return [*found, *(["containers"] if component.get("containers") else [])]


def _check_component(name: str, component: Document, annotations: Mapping[str, str]) -> None:
    found = component_implementations(name, component)
    if len(found) != 1:
        raise WebhookDenied(_ONE_OF[name], "spec", name)
    if name == "predictor":
        if message := implementation_problem(component, found[0]):
            raise WebhookDenied(message, "spec", name)
    elif found == ["art"]:
        _check_art(component["art"])
    check_extension(component, annotations, ("spec", name), WebhookDenied)


def _check_art(art: Document) -> None:
    kind = ((art.get("storage") or {}).get("parameters") or {}).get("type")
    known = "s3://, hdfs://, webhdfs://"
    if "storage" in art and kind is not None and kind not in ("s3", "hdfs", "webhdfs"):
        raise WebhookDenied(
            f"storage.spec.type, must be one of: [{known}]. storage.spec.type [{kind}] is not supported"
        )
