"""Does a Deployment show what its InferenceService says? Pure.

KServe's own `observedGeneration` is the Deployment's and not the service's (kserve#6081): it stays behind after an edit
that leaves the Deployment as it is, and runs ahead after edits of the runtime. So what was rendered is compared.
"""

from __future__ import annotations

import re
from typing import Any

from reconciler.cluster.health.fields import count, listed, mapping, mappings, text
from reconciler.kserve.names import AUTOSCALER_CLASS, KSERVE_CONTAINER, SOURCE_URI
from reconciler.kserve.quantity import canonical
from reconciler.model.objects import KubeObject

# Fields of a predictor, and of its model, that are not a pod's or a container's.
_NOT_OF_PODS = frozenset(
    {
        "annotations", "autoScaling", "batcher", "canaryTrafficPercent", "containerConcurrency", "containers",
        "deploymentStrategy", "huggingface", "initContainers", "labels", "lightgbm", "logger", "maxReplicas",
        "minReplicas", "model", "name", "onnx", "paddle", "pmml", "pytorch", "scaleMetric", "scaleMetricType",
        "scaleTarget", "sklearn", "storageUris", "tensorflow", "timeout", "triton", "workerSpec", "xgboost",
    }
)  # fmt: skip
_NOT_OF_CONTAINERS = frozenset(
    {
        "image",
        "modelFormat",
        "name",
        "protocolVersion",
        "resources",
        "runtime",
        "runtimeVersion",
        "storage",
        "storageUri",
    }
)
_REWRITTEN = re.compile(r"-(?:cpu|gpu)\b")


def unlike(service: KubeObject, deployment: KubeObject) -> str:
    """The path of a field of the predictor that the Deployment does not show; "" where it shows all of them.

    What git no longer says is not missed: what came from the runtime is not known here. Raises OddField.
    """
    predictor = mapping(service, "spec", "predictor")
    model, pod = mapping(predictor, "model"), mapping(deployment, "spec", "template", "spec")
    container = _container(deployment)
    checks = (
        _unlike_runtime(service, model),
        _unlike_count(service, predictor, deployment),
        _unlike_image(model, container),
        _unlike_storage(model, deployment),
        _missing(_without(model, _NOT_OF_CONTAINERS), container, "model"),
        _unlike_resources(model, container),
        _missing(_without(predictor, _NOT_OF_PODS), pod, ""),
    )
    found = next((each for each in checks if each), "")
    return f"spec.predictor.{found}" if found else ""


def unrendered(deployment: KubeObject, pod: KubeObject, added: tuple[str, ...] = ()) -> str:
    """What of the model's container a Deployment does not show of a pod that git and its runtime tell; "" for nothing.

    `added` are arguments that follow those of git. What KServe's webhook puts into pods later, and the registry that an
    image is taken from, are not compared. Raises OddField.
    """
    live, wanted = _container(deployment), _container({"spec": {"template": {"spec": pod}}})
    if not wanted:
        return ""
    if listed(live, "args") != (*listed(wanted, "args"), *added):
        return "the arguments of git's version"
    if listed(live, "command") != listed(wanted, "command"):
        return "the command of git's version"
    if _without_registry(live) != _without_registry(wanted):
        return "the image of git's version"
    values = {text(each, "name"): each.get("value") for each in mappings(live, "env")}
    for each in mappings(wanted, "env"):
        name = text(each, "name")
        if each.get("value") and values.get(name) and each["value"] != values[name]:
            return f"the variable {name} of git's version"
    return ""


def _without_registry(container: KubeObject) -> str:
    return text(container, "image").rpartition("/")[2]


def _container(deployment: KubeObject) -> KubeObject:
    containers = mappings(deployment, "spec", "template", "spec", "containers")
    return next((each for each in containers if text(each, "name") == KSERVE_CONTAINER), {})


def _without(body: KubeObject, names: frozenset[str]) -> KubeObject:
    return {key: value for key, value in body.items() if key not in names}


def _unlike_runtime(service: KubeObject, model: KubeObject) -> str:
    """KServe says which runtime it rendered, not the one that it could not find."""
    status = mapping(service, "status")
    used = text(status, "servingRuntimeName") or text(status, "clusterServingRuntimeName")
    wanted = text(model, "runtime")
    return "model.runtime" if wanted and used and wanted != used else ""


def _unlike_count(service: KubeObject, predictor: KubeObject, deployment: KubeObject) -> str:
    """Only without an autoscaler is the count KServe's to set."""
    wanted = count(predictor, "minReplicas")
    is_fixed = text(service, "metadata", "annotations", AUTOSCALER_CLASS) == "none"
    return "minReplicas" if is_fixed and wanted is not None and wanted != replicas(deployment) else ""


def replicas(deployment: KubeObject) -> int:
    """How many replicas a Deployment asks for. Raises OddField."""
    found = count(deployment, "spec", "replicas")
    return 1 if found is None else found


def _unlike_image(model: KubeObject, container: KubeObject) -> str:
    """KServe may put -cpu or -gpu into it; runtimeVersion replaces its tag."""
    wanted, live = text(model, "image"), text(container, "image")
    if not wanted or not live or text(model, "runtimeVersion"):
        return ""
    return "" if _REWRITTEN.sub("", wanted) == _REWRITTEN.sub("", live) else "model.image"


def _unlike_storage(model: KubeObject, deployment: KubeObject) -> str:
    wanted = text(model, "storageUri")
    live = text(mapping(deployment, "spec", "template", "metadata", "annotations"), SOURCE_URI)
    return "model.storageUri" if wanted and live and wanted != live else ""


def _unlike_resources(model: KubeObject, container: KubeObject) -> str:
    for part in ("requests", "limits"):
        live = mapping(container, "resources", part)
        for name, wanted in mapping(model, "resources", part).items():
            if not isinstance(wanted, str | int | float) or _is_templated(wanted):
                continue
            if canonical(wanted) != canonical(str(live.get(name))):
                return f"model.resources.{part}.{name}"
    return ""


def _missing(wanted: Any, live: Any, path: str) -> str:
    """The path of something in `wanted` that `live` does not show. Absent and empty are the same."""
    if not wanted or wanted == live:
        return ""
    if isinstance(wanted, dict):
        within = live if isinstance(live, dict) else {}
        inner = (_missing(value, within.get(key), f"{path}.{key}".lstrip(".")) for key, value in wanted.items())
        return next((each for each in inner if each), "")
    if isinstance(wanted, list):
        return _missing_items(wanted, live if isinstance(live, list) else [], path)
    is_same = _is_templated(wanted) or str(wanted) == str(live) or _is_same_quantity(wanted, live)
    return "" if is_same else path


def _missing_items(wanted: list[Any], live: list[Any], path: str) -> str:
    """Items with a name are compared with that of the same name; others only have to be there."""
    named = {_name(each): each for each in live}
    for at, item in enumerate(wanted):
        name = _name(item)
        if name and name in named:
            if inner := _missing(item, named[name], f"{path}.{at}"):
                return inner
        elif all(_missing(item, each, "x") for each in live) and not _is_templated(item):
            return f"{path}.{at}"
    return ""


def _name(item: object) -> str:
    name = item.get("name") if isinstance(item, dict) else None
    return name if isinstance(name, str) else ""


def _is_templated(value: object) -> bool:
    """KServe expands it, so that it reads otherwise in the Deployment."""
    return "{{" in str(value)


def _is_same_quantity(wanted: Any, live: Any) -> bool:
    both = (wanted, live)
    return all(isinstance(each, str | int | float) for each in both) and canonical(wanted) == canonical(live)
