"""Which implementation a component has: where its model comes from, which image runs, what it takes for GPUs. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from reconciler.formats import json_values
from reconciler.kserve import names
from reconciler.kserve.config import Config

Document = Mapping[str, Any]
_BASIC_RESOURCES = frozenset({"cpu", "memory", "storage", "ephemeral-storage"})


def unknown_gpu(resources: Document, annotations: Mapping[str, str], config: Config, error: type[Exception]) -> bool:
    """True when a resource is neither basic nor a GPU that is known or named by the annotation. Raises `error`."""
    known = set(config.gpu_types)
    custom = annotations.get(names.GPU_RESOURCE_TYPES)
    if custom:
        named = _text_list(custom)
        if named is None:
            raise error(
                f"invalid GPU format({custom}) for {names.GPU_RESOURCE_TYPES} annotation: must be a valid JSON array"
            )
        known.update(named)
    used = {*(resources.get("limits") or {}), *(resources.get("requests") or {})}
    return bool(used - _BASIC_RESOURCES - known)


def _text_list(text: str) -> list[str] | None:
    try:
        items = json_values.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(items, list) or not items:
        return None
    return items if all(isinstance(item, str) and item for item in items) else None


_TAG = re.compile(r":[\w.\-_]*\Z", re.ASCII)
_GPU_TAGS = ("tensorflow-serving", "torchserve", "huggingfaceserver")


def has_nvidia_gpu(resources: Mapping[str, Any]) -> bool:
    """KServe checks NVIDIA's limits only, a whole GPU or a slice of one."""
    limits = resources.get("limits") or {}
    return any(name == "nvidia.com/gpu" or name.startswith("nvidia.com/mig") for name in limits)


def choose_image(
    container: Mapping[str, Any], version: str | None, runtime_name: str, annotations: Mapping[str, str]
) -> str:
    """The image of the merged kserve-container. `annotations` are those of the runtime's metadata."""
    image: str = container.get("image", "")
    if "@sha256:" in image:
        return image
    tag = _TAG.search(image)
    if version is not None:
        return f"{image[: tag.start()] if tag else image}:{version}"
    server = annotations.get(names.SERVER_TYPE) or names.server_type_of(runtime_name)
    if not server or not tag:
        return image
    if has_nvidia_gpu(container.get("resources") or {}):
        return f"{image}-gpu" if server in _GPU_TAGS and not image.endswith("-gpu") else image
    repository = image[: tag.start()]
    if server == "vllmserver" and not repository.endswith("-cpu"):
        return f"{repository}-cpu{tag[0]}"
    return image


_NONE: Document = {}
ONE_OF_PREDICTOR = (
    "exactly one of [Name, SKLearn, XGBoost, Tensorflow, PyTorch, Triton, ONNX, HuggingFace, PMML, LightGBM, Paddle, "
    "Model, StorageUris, StorageContainerName, WorkerSpec, PodSpec] must be specified in PredictorSpec"
)


def env_value(env: Sequence[Document] | None, name: str) -> str | None:
    """Value of the first variable of that name; None when there is no such variable."""
    for item in env or ():
        if item.get("name") == name:
            value: str = item.get("value", "")
            return value
    return None


def container_named(containers: Sequence[Document] | None, name: str) -> Document | None:
    return next((item for item in containers or () if item.get("name") == name), None)


def implementations(predictor: Document) -> list[str]:
    """Fields that implement the predictor: framework names, `model`, and `containers` for a custom one."""
    containers = predictor.get("containers") or ()
    if not containers and "model" in predictor and names.FRAMEWORK_SET.isdisjoint(predictor):
        return ["model"]
    found = [name for name in names.IMPLEMENTATIONS if name in predictor]
    found += ["containers" for item in containers if item.get("name") == names.KSERVE_CONTAINER]
    if containers and not found:
        found.append("containers")
    return found


def implementation_problem(predictor: Document, kind: str) -> str:
    """Why KServe refuses one implementation; empty when it does not."""
    if kind != "containers":
        return ""
    value = env_value(predictor["containers"][0].get("env"), "PROTOCOL")
    if value is None or value in ("v1", "v2"):
        return ""
    # The two stand in this order in KServe's own message.
    return f"invalid protocol v1, v2. Must be one of [{value}]"


def framework_container(predictor: Document) -> Document | None:
    """The container that is inlined in `model` or in an old framework field."""
    for name in ("model", *names.FRAMEWORKS):
        if name in predictor:
            container: Document = predictor[name]
            return container
    return None


def confidential(predictor: Document) -> Document:
    """`confidential` of the implementation: an old framework field before `model`."""
    for name in (*names.FRAMEWORKS, "model"):
        if name in predictor:
            spec: Document = predictor[name].get("confidential") or _NONE
            return spec
    return _NONE


def storage_uri(predictor: Document) -> str | None:
    """The one URI of the predictor's model; None when it names none (storageUris are another field)."""
    found = implementations(predictor)
    if not found:
        return None
    if found[0] == "containers":
        container = container_named(predictor["containers"], names.KSERVE_CONTAINER)
        return env_value((container or _NONE).get("env"), "STORAGE_URI")
    uri: str | None = predictor[found[0]].get("storageUri")
    return uri


def storage_spec(predictor: Document) -> Document | None:
    """`storage` of the implementation."""
    found = implementations(predictor)
    if not found or found[0] == "containers":
        return None
    spec: Document | None = predictor[found[0]].get("storage")
    return spec


def is_multi_model(predictor: Document) -> bool:
    """True when KServe takes the predictor for a multi-model server and injects its agent."""
    containers = predictor.get("containers") or ()
    if containers:
        first = next((e for e in containers[0].get("env") or () if e.get("name") == "MULTI_MODEL_SERVER"), _NONE)
        return first.get("value") == "true"
    if predictor.get("model", _NONE).get("modelFormat", _NONE).get("name") == "huggingface":
        return False
    return storage_uri(predictor) is None and storage_spec(predictor) is None and not predictor.get("storageUris")


def protocol(predictor: Document) -> str:
    """Protocol that the implementation requests; v1 by default."""
    found = implementations(predictor)
    if found and found[0] != "containers":
        return predictor[found[0]].get("protocolVersion") or "v1"
    containers: Sequence[Document] = predictor.get("containers") or (_NONE,)
    chosen = container_named(containers, names.TRANSFORMER_CONTAINER) or containers[0]
    return env_value(chosen.get("env"), "PROTOCOL") or "v1"


def model_name(service: Document) -> str:
    """Name of the model, as KServe derives it: from arguments or MLServer's variable, else the service's own."""
    spec = service.get("spec") or {}
    transformer = spec.get("transformer", _NONE).get("containers") or ()
    found = _name_from_args(transformer[0].get("args") or ()) if transformer else ""
    predictor = spec.get("predictor") or {}
    if not found and "model" in predictor:
        model = predictor["model"]
        known = env_value(model.get("env"), "MLSERVER_MODEL_NAME")
        if known is not None:
            return known
        found = _name_from_args(model.get("args") or ())
    elif not found and predictor.get("containers"):
        found = _name_from_args(predictor["containers"][0].get("args") or ())
    return found or service.get("metadata", _NONE).get("name", "")


def _name_from_args(args: Sequence[str]) -> str:
    found = ""
    for index, arg in enumerate(args):
        if not arg.startswith("--model_name"):
            continue
        parts = arg.split("=")
        if len(parts) == 2:
            found = parts[1]
        if index + 1 < len(args) and not args[index + 1].startswith("--"):
            found = args[index + 1]
    return found
