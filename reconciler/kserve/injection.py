"""How a model gets into the pod: storage initializer, volumes of claims, mounts; what the pod webhook adds. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reconciler.formats import json_values
from reconciler.kserve import gojson, names
from reconciler.kserve.config import Config
from reconciler.kserve.credentials import (
    Given,
    Vault,
    account_credentials,
    storage_spec_env,
    storage_spec_uri,
)
from reconciler.kserve.localmodel import local_uri
from reconciler.kserve.merge import patch_container
from reconciler.kserve.pod import Container, Pod, add_env, add_mount, set_env
from reconciler.kserve.storage import (
    StorageContainer,
    StorageError,
    check_mount_paths,
    choose_container,
    common_parent,
    parent_folder,
    serve_image,
    split_oci,
    split_pvc,
    volume_name,
)

_FASTER_DOWNLOADS = {
    "HF_HUB_ENABLE_HF_TRANSFER": "1",
    "HF_XET_HIGH_PERFORMANCE": "1",
    "HF_XET_NUM_CONCURRENT_RANGE_GETS": "8",
}
_MAX_IMAGES = 10


@dataclass(frozen=True, slots=True)
class ResolvedModelSource:
    """One model source as it is known in the end."""

    uri: str
    mount_path: str
    read_only: bool
    env: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Setting:
    """The parts of the tree that injection depends on."""

    vault: Vault
    containers: Sequence[StorageContainer]
    namespace: str = ""


def is_read_only(annotations: Mapping[str, str]) -> bool:
    return annotations.get(names.STORAGE_READ_ONLY) != "false"


def serving_container(pod: Pod) -> Container:
    found = pod.container(names.KSERVE_CONTAINER) or pod.container(names.WORKER_CONTAINER)
    if found is None:
        raise StorageError("Invalid configuration: cannot find container")
    return found


# ---------------------------------------------------------------- storageUri, storage: done to the pod


def inject_source(pod: Pod, setting: Setting) -> tuple[ResolvedModelSource, ...]:
    """Inject the one source that the pod's annotations name. Raises StorageError."""
    uri = pod.annotations.get(names.SOURCE_URI)
    if uri is None:
        return ()
    uri = local_uri(uri, pod.labels, pod.annotations)
    read_only = is_read_only(pod.annotations)
    chosen = choose_container(uri, pod.annotations.get(names.STORAGE_CONTAINER_NAME), setting.containers)
    oci = split_oci(uri)
    if names.AGENT in pod.annotations:
        return ()
    if oci and (oci[0] or setting.vault.config.oci_mode):
        return (ResolvedModelSource(uri, names.MODEL_MOUNT, read_only),)
    if pod.init_container(names.STORAGE_INITIALIZER):
        return ()
    serving = serving_container(pod)
    if uri.startswith("pvc://"):
        claim, path = split_pvc(uri)
        _mount_claim(pod, claim, names.MODEL_MOUNT, path, names.PVC_VOLUME, read_only)
        _rewrite_storage_uri(serving)
        return (ResolvedModelSource(uri, names.MODEL_MOUNT, read_only),)
    initializer = _initializer(setting, [uri, names.MODEL_MOUNT])
    pod.init_containers.append(initializer)
    _mount_download(pod, names.MODEL_VOLUME, names.MODEL_MOUNT, read_only, initializer)
    _rewrite_storage_uri(serving)
    given = _credentials(pod, initializer, setting)
    env = _finish(pod, initializer, given, chosen, setting)
    return (ResolvedModelSource(initializer["args"][0], names.MODEL_MOUNT, read_only, env),)


def _rewrite_storage_uri(container: Container) -> None:
    """A custom container reads the folder where it asked for a URI."""
    env = container.get("env") or ()
    if any(item.get("name") == "STORAGE_URI" and item.get("value") for item in env):
        container["env"] = [
            {**item, "value": names.MODEL_MOUNT} if item.get("name") == "STORAGE_URI" and item.get("value") else item
            for item in env
        ]


def _initializer(setting: Setting, args: list[str]) -> Container:
    settings = setting.vault.config["storageInitializer"]
    return {
        "name": names.STORAGE_INITIALIZER,
        "image": settings.get("image") or "kserve/storage-initializer:latest",
        "args": args,
        "env": [],
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "resources": {
            "limits": {"cpu": settings["cpuLimit"], "memory": settings["memoryLimit"]},
            "requests": {"cpu": settings["cpuRequest"], "memory": settings["memoryRequest"]},
        },
    }


def _users(pod: Pod) -> list[Container]:
    transformer = pod.container(names.TRANSFORMER_CONTAINER)
    return [serving_container(pod), *([transformer] if transformer else [])]


def _mount_download(pod: Pod, volume: str, path: str, read_only: bool, initializer: Container) -> None:
    """Mount the folder that the initializer fills; it alone may always write."""
    shared = {"name": volume, "mountPath": path, **({"readOnly": True} if read_only else {})}
    added = [add_mount(each, shared) for each in _users(pod)]
    added.append(add_mount(initializer, {"name": volume, "mountPath": path}))
    if any(added):
        pod.add_volume({"name": volume, "emptyDir": {}})


def _mount_claim(pod: Pod, claim: str, path: str, sub_path: str, volume: str, read_only: bool) -> None:
    mount: dict[str, Any] = {"name": volume, "mountPath": path}
    mount |= ({"subPath": sub_path} if sub_path else {}) | ({"readOnly": True} if read_only else {})
    added = [add_mount(each, mount) for each in _users(pod)]
    if any(added):
        pod.add_volume({"name": volume, "persistentVolumeClaim": {"claimName": claim}})


def _credentials(pod: Pod, initializer: Container, setting: Setting) -> Given:
    """Credentials of the `storage` section, else of the service account."""
    annotations = pod.annotations
    if annotations.get(names.STORAGE_SPEC) != "true":
        return account_credentials(pod.fields.get("serviceAccountName", ""), annotations, setting.vault)
    parameters = _parameters(annotations)
    key = annotations.get(names.STORAGE_SPEC_KEY, "")
    given = storage_spec_env(key, parameters, annotations, setting.vault)
    args = initializer["args"]
    args[0] = storage_spec_uri(args[0], key, parameters, annotations, setting.vault)
    return given


def _parameters(annotations: Mapping[str, str]) -> Mapping[str, str]:
    """What the annotation says; a user may have written one of his own."""
    try:
        return gojson.loads_texts(annotations.get(names.STORAGE_SPEC_PARAM, "{}"))
    except ValueError as error:
        raise StorageError(f"{names.STORAGE_SPEC_PARAM}: {error}") from None


def _finish(
    pod: Pod, initializer: Container, given: Given, chosen: StorageContainer | None, setting: Setting
) -> tuple[Mapping[str, Any], ...]:
    """Credentials, the tree's own container settings, CA certificates, and variables for faster downloads.

    Returns the variables without those that only make downloads faster.
    """
    initializer["env"] = [*initializer["env"], *given.env]
    if given.mounts:
        initializer["volumeMounts"] = [*initializer.get("volumeMounts", ()), *given.mounts]
    for volume in given.volumes:
        pod.add_volume(volume)
    bundle = _ca_bundle(initializer, setting)
    if chosen:
        initializer.update(patch_container(initializer, chosen.spec.get("container") or {}))
    if bundle:
        _mount_ca_bundle(pod, initializer, *bundle)
    env = tuple(initializer["env"])
    for name, value in _FASTER_DOWNLOADS.items():
        add_env(initializer, name, value)
    if pod.annotations.get(names.CONFIDENTIAL) == "true":
        set_env(initializer, "CONFIDENTIAL_ENABLED", "true")
        if resource := pod.annotations.get(names.CONFIDENTIAL_RESOURCE):
            set_env(initializer, "CONFIDENTIAL_RESOURCE_ID", resource)
    return env


def _ca_bundle(initializer: Container, setting: Setting) -> tuple[str, str] | None:
    """Name of the ConfigMap with CA certificates and where it is mounted; None when none is asked for."""
    settings = setting.vault.config["storageInitializer"]
    env = {item.get("name"): item.get("value", "") for item in initializer["env"]}
    if not settings.get("caBundleConfigMapName") and "AWS_CA_BUNDLE_CONFIGMAP" not in env:
        return None
    # KServe copies its own ConfigMap into each other namespace under this name.
    copied = settings.get("caBundleConfigMapName", "") if setting.namespace == "kserve" else "global-ca-bundle"
    name = env.get("AWS_CA_BUNDLE_CONFIGMAP", copied)
    path = settings.get("caBundleVolumeMountPath") or "/etc/ssl/custom-certs"
    if "AWS_CA_BUNDLE" in env:
        path = parent_folder(env["AWS_CA_BUNDLE"])
    return name, path


def _mount_ca_bundle(pod: Pod, initializer: Container, name: str, path: str) -> None:
    add_env(initializer, "CA_BUNDLE_CONFIGMAP_NAME", name)
    add_env(initializer, "CA_BUNDLE_VOLUME_MOUNT_POINT", path)
    pod.volumes.append({"name": "cabundle-cert", "configMap": {"name": name}})
    mount = {"name": "cabundle-cert", "mountPath": path, "readOnly": True}
    initializer["volumeMounts"] = [*initializer.get("volumeMounts", ()), mount]


# ---------------------------------------------------------------- storageUris: done to the Deployment


def inject_sources(
    pod: Pod, uris: Sequence[Mapping[str, str]], container_name: str | None, setting: Setting
) -> tuple[ResolvedModelSource, ...]:
    """Inject all of predictor.storageUris. Raises StorageError."""
    chosen = choose_container(uris[0].get("uri", ""), container_name, setting.containers)
    if names.AGENT in pod.annotations:
        return ()
    read_only = is_read_only(pod.annotations)
    _serve_images(pod, uris, setting)
    if pod.init_container(names.STORAGE_INITIALIZER):
        return ()
    serving_container(pod)
    if chosen and chosen.spec.get("supportsMultiModelDownload") is not True:
        name = (chosen.spec.get("container") or {}).get("name", "")
        raise StorageError(
            f'storage container "{name}" does not support multi-model download; '
            "use the default kserve storage initializer or a compatible storage container"
        )
    for item in uris:
        if item["uri"].startswith("pvc://"):
            path = item["mountPath"]
            _mount_claim(pod, split_pvc(item["uri"])[0], path, "", volume_name(path), read_only)
    env = _download_all(pod, uris, chosen, read_only, setting)
    return tuple(
        ResolvedModelSource(
            item["uri"], item["mountPath"], read_only, () if item["uri"].startswith(_NOT_DOWNLOADED) else env
        )
        for item in uris
    )


_NOT_DOWNLOADED = ("pvc://", "oci://", "oci+")


def _download_all(
    pod: Pod,
    uris: Sequence[Mapping[str, str]],
    chosen: StorageContainer | None,
    read_only: bool,
    setting: Setting,
) -> tuple[Mapping[str, Any], ...]:
    downloads = [item for item in uris if not item["uri"].startswith("pvc://") and not split_oci(item["uri"])]
    if not downloads:
        return ()
    initializer = _initializer(setting, [part for item in downloads for part in (item["uri"], item["mountPath"])])
    pod.init_containers.append(initializer)
    path = common_parent([item["mountPath"] for item in downloads])
    _mount_download(pod, volume_name(path), path, read_only, initializer)
    both = names.STORAGE_SPEC_KEY in pod.annotations and names.STORAGE_SPEC_PARAM in pod.annotations
    given = (
        _credentials(pod, initializer, setting)
        if both
        else account_credentials(pod.fields.get("serviceAccountName", ""), pod.annotations, setting.vault)
    )
    return _finish(pod, initializer, given, chosen, setting)


def _serve_images(pod: Pod, uris: Sequence[Mapping[str, str]], setting: Setting) -> None:
    default = setting.vault.config.oci_mode
    images = [(oci, item["mountPath"]) for item in uris if (oci := split_oci(item["uri"]))]
    served = [(oci[0] or default, oci[1], path) for oci, path in images if oci[0] or default]
    if not served:
        return
    serving_container(pod)
    plain = [item["mountPath"] for item in uris if item["uri"].startswith("oci://")]
    if len(plain) > _MAX_IMAGES:
        raise StorageError(f"too many OCI sources ({len(plain)}); maximum is {_MAX_IMAGES} per pod")
    check_mount_paths(plain, default)
    for index, (mode, uri, path) in enumerate(served):
        for container in _users(pod):
            serve_image(pod, container, uri, path, mode, index, setting.vault.config)


_WHOLE = re.compile(r"[+-]?\d{1,30}", re.ASCII)
_AGGREGATED_PORT = "9088"


def finish_pod(pod: Pod, config: Config) -> None:
    """Annotations for Prometheus, the node selector of an accelerator, the initializer's user."""
    _scrape(pod, config)
    accelerator = pod.annotations.get(names.GKE_ACCELERATOR)
    if accelerator is not None and any(_has_gpu(each) for each in pod.containers):
        selector = pod.fields.get("nodeSelector") or {}
        pod.fields["nodeSelector"] = {**selector, "cloud.google.com/gke-accelerator": accelerator}
    initializer = pod.init_container(names.STORAGE_INITIALIZER)
    user = _initializer_user(pod) if initializer else None
    if initializer and user is not None:
        initializer["securityContext"] = {**(initializer.get("securityContext") or {}), "runAsUser": user}


def _initializer_user(pod: Pod) -> int | None:
    """Behind Istio's CNI only the sidecar's user reaches the network before the sidecar runs. Raises StorageError."""
    notes = pod.annotations
    if names.INITIALIZER_UID in notes:
        given = notes[names.INITIALIZER_UID]
        return int(given) if _WHOLE.fullmatch(given) and -(2**63) <= int(given) < 2**63 else None
    if pod.init_container("istio-init") or notes.get("sidecar.istio.io/interceptionMode") != "REDIRECT":
        return None
    sidecar = pod.container(_sidecar_name(notes.get("sidecar.istio.io/status")))
    if sidecar is None:
        return None
    return int((sidecar.get("securityContext") or {}).get("runAsUser", 1337))


def _sidecar_name(status: str | None) -> str:
    if status is None:
        return ""
    try:
        found = json_values.loads(status)
    except (ValueError, RecursionError) as error:
        raise StorageError(f"sidecar.istio.io/status: {error}") from None
    listed = found.get("containers") if isinstance(found, dict) else None
    return str(listed[0]) if isinstance(listed, list) and listed else ""


def _scrape(pod: Pod, config: Config) -> None:
    settings = config["metricsAggregator"]
    for key, setting in (
        (names.METRIC_AGGREGATION, "enableMetricAggregation"),
        (names.PROMETHEUS_SCRAPING, "enablePrometheusScraping"),
    ):
        pod.annotations.setdefault(key, str(settings.get(setting, "")))
    aggregated = pod.annotations[names.METRIC_AGGREGATION] == "true"
    if aggregated and (queue := pod.container("queue-proxy")):
        _aggregate(queue, pod.annotations)
    if pod.annotations[names.PROMETHEUS_SCRAPING] == "true":
        pod.annotations["prometheus.io/port"] = _AGGREGATED_PORT if aggregated else "9091"
        pod.annotations["prometheus.io/path"] = "/metrics"


def _aggregate(queue: Container, notes: Mapping[str, str]) -> None:
    """Knative's sidecar learns which metrics to add to its own."""
    set_env(queue, "KSERVE_CONTAINER_PROMETHEUS_METRICS_PORT", notes.get("prometheus.kserve.io/port", "8080"))
    set_env(queue, "KSERVE_CONTAINER_PROMETHEUS_METRICS_PATH", notes.get("prometheus.kserve.io/path", "/metrics"))
    set_env(queue, "AGGREGATE_PROMETHEUS_METRICS_PORT", _AGGREGATED_PORT)
    ports = list(queue.get("ports") or ())
    if all(port.get("name") != "aggr-metric" for port in ports):
        ports.append({"name": "aggr-metric", "containerPort": int(_AGGREGATED_PORT), "protocol": "TCP"})
    queue["ports"] = ports


def _has_gpu(container: Mapping[str, Any]) -> bool:
    return "nvidia.com/gpu" in ((container.get("resources") or {}).get("limits") or {})
