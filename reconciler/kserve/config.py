"""The ConfigMap `inferenceservice-config` as KServe reads it; what it ships with where there is none."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from reconciler.kserve import gojson, names
from reconciler.kserve.quantity import is_quantity
from reconciler.kserve.template_syntax import TemplateError, parse

_RESOURCES = {"memoryRequest": "100Mi", "memoryLimit": "1Gi", "cpuRequest": "100m", "cpuLimit": "1"}
# What KServe 0.20 ships. A key that the ConfigMap holds replaces the whole section, as it does in KServe.
SHIPPED: Mapping[str, Mapping[str, Any]] = {
    "explainers": {"art": {"image": "kserve/art-explainer", "defaultImageVersion": "latest"}},
    "storageInitializer": {
        "image": "kserve/storage-initializer:latest",
        **_RESOURCES,
        "caBundleConfigMapName": "",
        "caBundleVolumeMountPath": "/etc/ssl/custom-certs",
        "enableModelcar": True,
        "cpuModelcar": "10m",
        "memoryModelcar": "15Mi",
        "uidModelcar": 1010,
    },
    "credentials": {
        "storageSpecSecretName": "storage-config",
        "storageSecretNameAnnotation": "serving.kserve.io/storageSecretName",
        "gcs": {"gcsCredentialFileName": "gcloud-application-credentials.json"},
        "s3": {"s3AccessKeyIDName": "AWS_ACCESS_KEY_ID", "s3SecretAccessKeyName": "AWS_SECRET_ACCESS_KEY"},
    },
    "ingress": {
        "ingressGateway": "knative-serving/knative-ingress-gateway",
        "ingressDomain": "example.com",
        "domainTemplate": "{{ .Name }}-{{ .Namespace }}.{{ .IngressDomain }}",
        "urlScheme": "http",
    },
    "logger": {"image": "kserve/agent:latest", **_RESOURCES, "defaultUrl": "http://default-broker"},
    "batcher": {"maxBatchSize": "32", "maxLatency": "5000"},
    "agent": {"image": "kserve/agent:latest", **_RESOURCES},
    "deploy": {"defaultDeploymentMode": "Serverless"},
    "metricsAggregator": {"enableMetricAggregation": "false", "enablePrometheusScraping": "false"},
    "localModel": {"enabled": False},
    "security": {"autoMountServiceAccountToken": True},
    "inferenceService": {
        "resource": {"cpuLimit": "1", "memoryLimit": "2Gi", "cpuRequest": "1", "memoryRequest": "2Gi"}
    },
    "multiNode": {},
}
# What the sections may hold in addition to the shipped keys; the values only show the type.
_OPTIONAL: Mapping[str, Mapping[str, Any]] = {
    "storageInitializer": {"enableOciModelSupport": True, "ociModelMode": ""},
    "credentials": {
        "s3": dict.fromkeys(
            """s3AccessKeyIDName s3SecretAccessKeyName s3Endpoint s3UseHttps s3Region s3VerifySSL s3UseVirtualBucket
            s3UseAccelerate s3UseAnonymousCredential s3CABundleConfigMap s3CABundle""".split(),  # noqa: SIM905
            "",
        )
    },
    "ingress": {"enableGatewayApi": True, "kserveIngressGateway": "", "pathTemplate": ""},
    "logger": {
        "storage": {"serviceAccountName": "", "path": "", "key": "", "parameters": {}},
        "marshallerUrl": "",
        "batchSize": 0,
        "batchInterval": "",
        "caBundle": "",
        "caCertFile": "",
        "tlsSkipVerify": True,
    },
    "batcher": _RESOURCES,
    "inferenceService": {"serviceAnnotationDisallowedList": [], "serviceLabelDisallowedList": []},
    "multiNode": {"customGPUResourceTypeList": []},
}
# How KServe begins to complain, where it is not "unable to parse … config json".
_COMPLAINTS = {
    **{
        key: f"unable to unmarshall {key} json string due to "
        for key in ("explainers", "inferenceService", "multiNode")
    },
    **{key: f"Unable to unmarshall {key} json string due to " for key in ("storageInitializer", "logger", "batcher")},
    "metricsAggregator": "Unable to unmarshall metricsAggregator json string due to ",
    "agent": "unable to unmarshall agent json string due to ",
    "credentials": "unable to parse credential config json: ",
    "localModel": "",
    "security": "",
}
_QUANTITY_RULE = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_OCI_MODES = ("modelcar", "native", "fetch")
_GPU_TYPES = ("nvidia.com/gpu", "amd.com/gpu", "intel.com/gpu", "habana.ai/gaudi")


@dataclass(frozen=True, slots=True)
class Config:
    """KServe's settings for one tree. `errors` name the keys of the ConfigMap that cannot be used."""

    default_mode: str = names.KNATIVE
    sections: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: SHIPPED)
    disallowed: frozenset[str] = names.DISALLOWED_ANNOTATIONS
    disallowed_labels: frozenset[str] = frozenset()
    gpu_types: tuple[str, ...] = _GPU_TYPES
    errors: tuple[tuple[str, str], ...] = ()

    def __getitem__(self, section: str) -> Mapping[str, Any]:
        return self.sections[section]

    @property
    def oci_mode(self) -> str:
        """How oci:// is served: modelcar, native, fetch, or empty for not at all."""
        settings = self.sections["storageInitializer"]
        if settings.get("ociModelMode"):
            return str(settings["ociModelMode"])
        return "modelcar" if settings.get("enableModelcar") or settings.get("enableOciModelSupport") else ""


def from_config_map(data: Mapping[str, str] | None, default_mode: str | None = None) -> Config:
    """Settings of the ConfigMap's `data`. `default_mode` applies where the ConfigMap has no `deploy`."""
    errors: list[tuple[str, str]] = []
    given = {key: _parse(key, text, errors) for key, text in (data or {}).items() if key in SHIPPED}
    sections = {**SHIPPED, **{key: value for key, value in given.items() if value is not None}}
    mode = _mode(given.get("deploy"), default_mode, errors)
    _check_storage_initializer(sections, errors)
    for section in ("agent", "logger", "batcher"):
        _check_amounts(section, sections, errors)
    _check_ingress(given.get("ingress"), errors)
    extra = sections["inferenceService"].get("serviceAnnotationDisallowedList")
    custom = sections["multiNode"].get("customGPUResourceTypeList")
    return Config(
        default_mode=mode,
        sections=sections,
        disallowed=names.DISALLOWED_ANNOTATIONS | frozenset(_texts(extra)),
        disallowed_labels=frozenset(_texts(sections["inferenceService"].get("serviceLabelDisallowedList"))),
        gpu_types=tuple(dict.fromkeys((*_GPU_TYPES, *_texts(custom)))),
        errors=tuple(errors),
    )


def _texts(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _parse(key: str, text: str, errors: list[tuple[str, str]]) -> Mapping[str, Any] | None:
    what = _COMPLAINTS.get(key, f"unable to parse {key} config json: ")
    try:
        value = gojson.loads_object(text)
    except ValueError as error:
        errors.append((key, f"{what}{error}"))
        return None
    problems: list[str] = []
    typed = _typed({**_OPTIONAL.get(key, {}), **SHIPPED[key]}, value, problems)
    errors += [(key, f"{what}{problem}") for problem in problems]
    return typed


def _typed(known: Mapping[str, Any], value: dict[str, Any], problems: list[str]) -> dict[str, Any]:
    """The object under the names that KServe knows (Go takes them in any case), without what has the wrong type."""
    result = {}
    spelled = {name.lower(): name for name in known}
    for given, item in value.items():
        name = spelled.get(given.lower(), given)
        expected = known.get(name)
        if item is None:
            continue
        if expected is None or isinstance(item, type(expected)):
            inner = isinstance(item, dict) and isinstance(expected, Mapping)
            result[name] = _typed(expected or {}, item, problems) if inner else item
        else:
            kinds = (gojson.kind_of(item), gojson.kind_of(expected))
            problems.append(f"json: cannot unmarshal {kinds[0]} into Go struct field .{name} of type {kinds[1]}")
    return result


def _mode(deploy: Mapping[str, Any] | None, default: str | None, errors: list[tuple[str, str]]) -> str:
    fallback = default or str(SHIPPED["deploy"]["defaultDeploymentMode"])
    fallback = names.LEGACY_MODES.get(fallback, fallback)
    if deploy is None:
        return fallback
    mode = str(deploy.get("defaultDeploymentMode") or "")
    mode = names.LEGACY_MODES.get(mode, mode)
    if not mode:
        errors.append(("deploy", "invalid deploy config, defaultDeploymentMode is required"))
    elif mode not in (names.STANDARD, names.KNATIVE, names.MODEL_MESH):
        errors.append(("deploy", "invalid deployment mode. Supported modes are Knative, Standard and ModelMesh"))
    else:
        return mode
    return fallback


def _check_storage_initializer(sections: dict[str, Mapping[str, Any]], errors: list[tuple[str, str]]) -> None:
    """Fill in amounts that are missing or wrong with the shipped ones, so that everything after can rely on them."""
    settings, shipped = dict(sections["storageInitializer"]), SHIPPED["storageInitializer"]
    for name in (*_RESOURCES, "cpuModelcar", "memoryModelcar"):
        if not is_quantity(settings.get(name) or "") and (name in _RESOURCES or settings.get(name)):
            text = f'failed to parse resource configuration for "storageInitializer"."{name}"'
            errors.append(("storageInitializer", f"{text}: {_QUANTITY_RULE}"))
            settings.pop(name, None)
        settings[name] = settings.get(name) or shipped[name]
    mode = settings.get("ociModelMode")
    if mode and mode not in _OCI_MODES:
        known = ", ".join(f'"{item}"' for item in _OCI_MODES)
        text = f'invalid "storageInitializer".ociModelMode "{mode}": must be one of {known}'
        errors.append(("storageInitializer", text))
        settings.pop("ociModelMode")
    sections["storageInitializer"] = settings


def _check_amounts(section: str, sections: dict[str, Mapping[str, Any]], errors: list[tuple[str, str]]) -> None:
    """Amounts of a sidecar. Like KServe's own: all are needed, and one that is missing is as bad as a wrong one."""
    settings = sections[section]
    if settings is SHIPPED[section]:
        return
    wrong = [name for name in _RESOURCES if not is_quantity(settings.get(name) or "")]
    if wrong:
        # Three teams, two styles.
        rule = _QUANTITY_RULE if section == "agent" else f'"{_QUANTITY_RULE}"'
        text = f'ailed to parse resource configuration for "{section}": {rule}'
        errors.append((section, ("f" if section == "agent" else "F") + text))
        sections[section] = {**settings, **{name: _RESOURCES[name] for name in wrong}}


def _check_ingress(ingress: Mapping[str, Any] | None, errors: list[tuple[str, str]]) -> None:
    if ingress is not None and (problem := _ingress_problem(ingress)):
        errors.append(("ingress", f"invalid ingress config{problem}"))


def _ingress_problem(ingress: Mapping[str, Any]) -> str:
    """The first thing that KServe refuses about the section; empty when it takes it."""
    if ingress.get("enableGatewayApi") and (
        problem := _gateway_problem(str(ingress.get("kserveIngressGateway") or ""))
    ):
        return f" - kserveIngressGateway {problem}"
    if not ingress.get("ingressGateway"):
        return " - ingressGateway is required"
    path = ingress.get("pathTemplate")
    if not path:
        return ""
    try:
        parse(str(path))
    except TemplateError as error:
        return f", unable to parse pathTemplate: template: path-template:1: {error}"
    return "" if ingress.get("ingressDomain") else " - ingressDomain is required if pathTemplate is given"


def _gateway_problem(gateway: str) -> str:
    if not gateway:
        return "is required"
    parts = gateway.split("/")
    if len(parts) != 2:
        return "should be in the format <namespace>/<name>"
    for part, what in zip(parts, ("namespace", "name"), strict=True):
        if len(part) > 63 or not _DNS_LABEL.fullmatch(part):
            return f"gateway {what} is invalid"
    return ""
