"""What happens to a document that is applied: defaults, stored form, what is refused, what a later KServe takes. Pure.

The one place where a single document is validated, for `validate` and for what runs alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from reconciler.kserve import names, schema
from reconciler.kserve.config import Config
from reconciler.kserve.issues import Issue
from reconciler.kserve.localmodel import LocalModel, mark_local_model
from reconciler.kserve.pod_validation import metadata_flaws
from reconciler.kserve.predictor import implementations
from reconciler.kserve.quantity import canonical
from reconciler.kserve.schema import Flaw
from reconciler.model import ReasonCode

VERSION = "0.21"
_OF_RUNTIMES = (("spec", "resourceClaims"), ("spec", "workerSpec", "resourceClaims"))
# schema.json has them in addition to the kinds of 0.20.
_FIELDS = {
    "InferenceService": (("spec", "tracing"),),
    "ServingRuntime": _OF_RUNTIMES,
    "ClusterServingRuntime": _OF_RUNTIMES,
}


def later(what: str, *path: Any) -> Issue:
    """The warning about one field or value."""
    return Issue(ReasonCode.NEWER_VERSION_REQUIRED, f"{what} needs KServe {VERSION}; 0.20 refuses it", path)


def later_fields(document: Mapping[str, Any]) -> Iterator[Issue]:
    """A warning for each field of a document that 0.20 does not know."""
    for path in _FIELDS.get(str(document.get("kind")), ()):
        value: Any = document
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        if value is not None:
            yield later(path[-1], *path)


_V2_FORMATS = ("triton", "vLLM")
_V2_FRAMEWORKS = ("triton", "onnx", "huggingface")


def with_defaults(service: Mapping[str, Any], config: Config, models: Iterable[LocalModel] = ()) -> dict[str, Any]:
    """The service as the webhook leaves it. The given document stays as it is.

    `models` are the cached models that its namespace sees, its own first.
    """
    metadata = dict(service.get("metadata") or {})
    spec = dict(service.get("spec") or {})
    annotations = dict(metadata.get("annotations") or {})
    given = annotations.get(names.DEPLOYMENT_MODE)
    mode = _write_mode(annotations, config)
    if "predictor" in spec:
        spec["predictor"] = dict(spec["predictor"])
        if given is None or mode != names.MODEL_MESH:
            _default_predictor(spec["predictor"], annotations, config)
    for name in ("transformer", "explainer"):
        if name in spec:
            spec[name] = _default_component(dict(spec[name]), config)
    if config["security"].get("autoMountServiceAccountToken") is not True:
        for name in ("predictor", "transformer", "explainer"):
            if name in spec:
                spec[name].setdefault("automountServiceAccountToken", False)
    if annotations:
        metadata["annotations"] = annotations
    if "predictor" in spec:
        is_wanted = config["localModel"].get("enabled") is True and names.DISABLE_LOCAL_MODEL not in annotations
        mark_local_model(metadata, spec["predictor"], models if is_wanted else ())
    return {**service, "metadata": metadata, "spec": spec}


def _write_mode(annotations: dict[str, str], config: Config) -> str:
    """Old names become the new ones; the configured default is written down unless it is Knative."""
    given = annotations.get(names.DEPLOYMENT_MODE)
    if given is not None:
        annotations[names.DEPLOYMENT_MODE] = names.LEGACY_MODES.get(given, given)
    elif config.default_mode in (names.STANDARD, names.MODEL_MESH):
        annotations[names.DEPLOYMENT_MODE] = config.default_mode
    return annotations.get(names.DEPLOYMENT_MODE, "")


def _default_predictor(predictor: dict[str, Any], annotations: dict[str, str], config: Config) -> None:
    framework = next((name for name in names.FRAMEWORKS if name in predictor), None)
    if framework:
        predictor["model"] = {"modelFormat": {"name": framework}, **_framework_fields(predictor.pop(framework))}
        if framework in _V2_FRAMEWORKS:
            predictor["model"].setdefault("protocolVersion", "v2")
    model = predictor.get("model")
    if model is not None:
        format_name = model.get("modelFormat", {}).get("name", "")
        if format_name in _V2_FORMATS and "protocolVersion" not in model:
            predictor["model"] = {**model, "protocolVersion": "v2"}
        if format_name:
            annotations.setdefault(names.MODEL_FORMAT, format_name)
    elif implementations(predictor) == ["containers"]:
        _default_custom(predictor, config)


def _framework_fields(framework: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in framework.items() if key not in ("modelFormat", "runtime")}


def _default_custom(predictor: dict[str, Any], config: Config) -> None:
    """A custom predictor: the first container is named and gets default resources."""
    first = dict(predictor["containers"][0])
    if len(predictor["containers"]) == 1 or not first.get("name"):
        first["name"] = names.KSERVE_CONTAINER
    first["resources"] = _resources(first.get("resources") or {}, config)
    predictor["containers"] = [first, *predictor["containers"][1:]]


def _default_component(component: dict[str, Any], config: Config) -> dict[str, Any]:
    """A transformer or an explainer: its first container is named kserve-container and gets default resources."""
    containers = component.get("containers")
    if containers and "art" not in component:
        resources = _resources(containers[0].get("resources") or {}, config)
        first = {**containers[0], "name": names.KSERVE_CONTAINER, "resources": resources}
        component["containers"] = [first, *containers[1:]]
    elif "art" in component and not containers:
        art = dict(component["art"])
        art["name"] = names.KSERVE_CONTAINER
        settings = config["explainers"].get("art", {})
        art.setdefault("runtimeVersion", settings.get("defaultImageVersion", ""))
        art["resources"] = _resources(art.get("resources") or {}, config)
        component["art"] = art
    return component


def _resources(given: Mapping[str, Any], config: Config) -> dict[str, Any]:
    default = config["inferenceService"].get("resource") or {}
    result = dict(given)
    for kind, suffix in (("requests", "Request"), ("limits", "Limit")):
        amounts = {name: canonical(default[name + suffix]) for name in ("cpu", "memory") if default.get(name + suffix)}
        merged = {**amounts, **(given.get(kind) or {})}
        if merged:
            result[kind] = merged
    return result


def deployment_mode(annotations: Mapping[str, str], config: Config) -> str:
    """How KServe deploys a new service. An annotation that names no mode counts as none."""
    given = annotations.get(names.DEPLOYMENT_MODE, "")
    given = names.LEGACY_MODES.get(given, given)
    return given if given in (names.STANDARD, names.KNATIVE, names.MODEL_MESH) else config.default_mode


def read(document: Mapping[str, Any], *, mutated: bool = False) -> tuple[dict[str, Any], tuple[Flaw, ...]]:
    """A document in the form a cluster stores it, and what its schema and the rules for metadata refuse about it.

    `mutated` is True for kinds whose webhook rewrites them before the schema is checked.
    """
    clean, flaws = schema.read(document, mutated=mutated)
    metadata = clean.get("metadata")
    return clean, (*flaws, *(metadata_flaws(clean) if isinstance(metadata, dict) else ()))


def is_checked(document: Mapping[str, Any]) -> bool:
    """Is there a schema for this kind?"""
    return schema.root_of(document) is not None
