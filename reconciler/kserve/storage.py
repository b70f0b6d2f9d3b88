"""Where models come from: URIs that KServe takes, containers that download them, OCI images. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import re2

from reconciler.kserve import names
from reconciler.kserve.config import Config
from reconciler.kserve.issues import AbsentSecret
from reconciler.kserve.pod import Container, Pod, add_mount, set_env

PREFIXES = (
    "gs://",
    "s3://",
    "pvc://",
    "file://",
    "https://",
    "http://",
    "hdfs://",
    "webhdfs://",
    "oci://",
    "oci+native://",
    "hf://",
)
# A later KServe takes these as well: accepted here, with a warning that names the version.
LATER_PREFIXES = ("oci+fetch://", "modelscope://")
_AZURE_BLOB = r"https://(.+?).blob.core.windows.net/(.+)"
# One letter tells as much as all of them, and is found without looking at each part of a long text again and again.
_HAS_SCHEME = re.compile(r"\w://", re.ASCII)


class StorageError(Exception):
    """KServe refuses the storage; the message is KServe's. `absent` is the Secret that would cure it."""

    def __init__(self, message: str, absent: AbsentSecret | None = None) -> None:
        super().__init__(message)
        self.absent = absent


@dataclass(frozen=True, slots=True)
class StorageContainer:
    """One ClusterStorageContainer."""

    name: str
    spec: Mapping[str, Any]
    is_disabled: bool = False

    def supports(self, uri: str) -> bool:
        for entry in self.spec.get("supportedUriFormats") or ():
            if prefix := entry.get("prefix"):
                if uri.startswith(str(prefix)):
                    return True
            elif (pattern := entry.get("regex")) and _matches(str(pattern), uri):
                return True
        return False

    @property
    def is_initializer(self) -> bool:
        return str(self.spec.get("workloadType", "initContainer")) == "initContainer"


def _matches(pattern: str, text: str) -> bool:
    compiled = _compiled(pattern)
    if compiled is None:
        raise StorageError(f"error parsing regexp: {pattern}")
    return compiled.search(text) is not None


@lru_cache(4096)
def _compiled(pattern: str) -> Any:
    """As Go's regexp, which KServe uses, and in time linear in the text: patterns come from git. None: no pattern."""
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except (re2.error, UnicodeEncodeError):
        return None


# What KServe 0.20 ships.
DEFAULT_CONTAINER = StorageContainer(
    "default",
    {
        "container": {
            "name": "storage-initializer",
            "image": "kserve/storage-initializer:v0.20.0",
            "imagePullPolicy": "IfNotPresent",
            "resources": {
                "requests": {"memory": "100Mi", "cpu": "100m"},
                "limits": {"memory": "1Gi", "cpu": "1"},
            },
        },
        "supportedUriFormats": [
            {"prefix": "gs://"},
            {"prefix": "s3://"},
            {"prefix": "hdfs://"},
            {"prefix": "hf://"},
            {"prefix": "webhdfs://"},
            {"regex": "https://(.+?).blob.core.windows.net/(.+)"},
            {"regex": "https://(.+?).file.core.windows.net/(.+)"},
            {"regex": "https?://(.+)/(.+)"},
        ],
        "workloadType": "initContainer",
        "supportsMultiModelDownload": True,
    },
)


def choose_container(uri: str, name: str | None, containers: Sequence[StorageContainer]) -> StorageContainer | None:
    """The container that downloads a URI: the named one, else the first that supports it. Raises StorageError."""
    if name:
        return _named_container(uri, name, containers)
    return next(
        (each for each in containers if not each.is_disabled and each.is_initializer and each.supports(uri)), None
    )


def _named_container(uri: str, name: str, containers: Sequence[StorageContainer]) -> StorageContainer:
    found = next((each for each in containers if each.name == name), None)
    what = f'ClusterStorageContainer "{name}"'
    if found is None:
        raise StorageError(f"{what} not found")
    if found.is_disabled:
        raise StorageError(f"{what} is disabled")
    if not found.is_initializer:
        kind = found.spec.get("workloadType", "")
        raise StorageError(f'{what} has workloadType "{kind}"; explicit selection requires "initContainer"')
    if not found.supports(uri):
        raise StorageError(f'{what} does not support storageUri "{uri}"')
    return found


def check_uri(uri: str, containers: Sequence[StorageContainer]) -> None:
    """Raises StorageError for a storageUri that KServe does not take; storageUris are not checked."""
    if choose_container(uri, None, containers) or not _HAS_SCHEME.search(uri):
        return
    if uri.startswith(LATER_PREFIXES):
        return
    if "blob.core.windows.net" in uri:
        if _matches(_AZURE_BLOB, uri):
            return
    elif uri.startswith(PREFIXES):
        return
    known = ", ".join(PREFIXES)
    raise StorageError(
        f"StorageURI not supported: storageUri, must be one of: [{known}] or match "
        "https://{}.blob.core.windows.net/{}/{} or be an absolute or relative local path. "
        f"StorageUri [{uri}] is not supported"
    )


def split_oci(uri: str) -> tuple[str, str] | None:
    """Mode and plain oci:// form of an OCI URI (`oci+native://…` names its mode); None for any other."""
    if uri.startswith("oci+"):
        mode, separator, rest = uri.removeprefix("oci+").partition("://")
        if separator and mode:
            return mode, f"oci://{rest}"
    return ("", uri) if uri.startswith("oci://") else None


def split_pvc(uri: str) -> tuple[str, str]:
    """Claim and path of `pvc://claim/path`."""
    claim, _, path = uri.removeprefix("pvc://").partition("/")
    return claim, path


def common_parent(paths: Sequence[str]) -> str:
    """Deepest folder that all paths share; the path itself when there is one."""
    if not paths:
        return ""
    if len(paths) == 1:
        return paths[0]
    split = [path.strip("/").split("/") if path.strip("/") else [] for path in paths]
    shared = []
    for level in zip(*(parts for parts in split if parts), strict=False):
        if len(set(level)) > 1:
            break
        shared.append(level[0])
    return "/" + "/".join(shared)


def volume_name(path: str) -> str:
    """`/mnt/models/a` is mounted from the volume `mnt-models-a`."""
    return path.strip("/").replace("/", "-")


def parent_folder(path: str) -> str:
    """The folder above, after Go's clean-up of the path."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    if path.endswith("/"):
        return "/" + "/".join(parts)
    return "/" + "/".join(parts[:-1])


_SAFE = re.compile(r"[A-Za-z0-9/._-]+", re.ASCII)


def inject_image(pod: Pod, config: Config) -> None:
    """Serve the one image that the pod's annotations name, if it is one. Raises StorageError."""
    uri = pod.annotations.get(names.SOURCE_URI)
    oci = split_oci(uri) if uri is not None else None
    if not config.oci_mode or not oci:
        return
    targets = [names.KSERVE_CONTAINER, names.TRANSFORMER_CONTAINER]
    if pod.container(names.KSERVE_CONTAINER) is None:
        if pod.container(names.WORKER_CONTAINER) is None:
            raise StorageError(f"Invalid configuration: cannot find container: {names.KSERVE_CONTAINER}")
        targets[0] = names.WORKER_CONTAINER
    for name in targets:
        if container := pod.container(name):
            serve_image(pod, container, oci[1], names.MODEL_MOUNT, oci[0] or config.oci_mode, 0, config)


def serve_image(pod: Pod, container: Container, uri: str, path: str, mode: str, index: int, config: Config) -> None:
    """Make an image's models appear at `path` of one container. Raises StorageError."""
    image = uri.removeprefix("oci://")
    if mode == "native":
        _mount_image(pod, container, image, path)
    else:
        _add_modelcar(pod, container, image, path, index, config)


def check_mount_paths(paths: Sequence[str], mode: str) -> None:
    """Raises StorageError where one image would hide another."""
    seen: dict[str, str] = {}
    for path in paths:
        place = path if mode == "native" else parent_folder(path)
        if place in seen and mode == "native":
            what = f'OCI mount path "{path}" is specified more than once'
            raise StorageError(f"{what}; each native ImageVolume must have a unique mount path")
        if place in seen:
            raise StorageError(
                f'OCI mount paths "{seen[place]}" and "{path}" share parent directory "{place}", '
                "which would cause volume mount shadowing; use mount paths with distinct parent directories"
            )
        seen[place] = path


def _mount_image(pod: Pod, container: Container, image: str, path: str) -> None:
    volume = volume_name(path) or "oci-model"
    for mount in container.get("volumeMounts") or ():
        if mount.get("mountPath") == path and mount.get("name") != volume:
            raise StorageError(f'mountPath "{path}" already used by volume "{mount.get("name", "")}"')
    pod.add_volume({"name": volume, "image": {"reference": image, "pullPolicy": "IfNotPresent"}})
    add_mount(container, {"name": volume, "mountPath": path, "subPath": "models", "readOnly": True})


def _add_modelcar(pod: Pod, container: Container, image: str, path: str, index: int, config: Config) -> None:
    suffix = f"-{index}" if index else ""
    volume = names.MODEL_VOLUME + suffix
    set_env(container, "MODEL_INIT_MODE", "async")
    pod.add_volume({"name": volume, "emptyDir": {}})
    add_mount(container, {"name": volume, "mountPath": parent_folder(path)})
    user = config["storageInitializer"].get("uidModelcar")
    if user is not None:
        container["securityContext"] = {**(container.get("securityContext") or {}), "runAsUser": user}
    if pod.container(f"modelcar{suffix}") is None:
        pod.containers.append(_sidecar(f"modelcar{suffix}", image, path, volume, config))
        pod.init_containers.append(_fetcher(f"modelcar-init{suffix}", image, config))
    pod.fields["shareProcessNamespace"] = True


def _resources(config: Config) -> dict[str, dict[str, str]]:
    settings = config["storageInitializer"]
    amounts = {"cpu": settings["cpuModelcar"], "memory": settings["memoryModelcar"]}
    return {"limits": dict(amounts), "requests": dict(amounts)}


def _sidecar(name: str, image: str, path: str, volume: str, config: Config) -> Container:
    sidecar: Container = {
        "name": name,
        "image": image,
        "args": ["sh", "-c", _link_command(path)],
        "volumeMounts": [{"name": volume, "mountPath": parent_folder(path)}],
        "resources": _resources(config),
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    user = config["storageInitializer"].get("uidModelcar")
    if user is not None:
        sidecar["securityContext"] = {"runAsUser": user}
    return sidecar


def _link_command(path: str) -> str:
    """The kubelet turns `$$` into `$`, so the shell sees its own process id."""
    link = f"ln -sf /proc/$$$$/root/models {_quoted(path)} && sleep infinity"
    return link if path == names.MODEL_MOUNT else f"mkdir -p {_quoted(parent_folder(path))} && {link}"


def _quoted(text: str) -> str:
    return text if _SAFE.fullmatch(text) else "'" + text.replace("'", "'\\''") + "'"


def _fetcher(name: str, image: str, config: Config) -> Container:
    """An init container that pulls the image before anything starts, and fails when it holds no models."""
    check = (
        f"echo 'Pre-fetching modelcar {image}: ' && [ -d /models ] && [ \"$$(ls -A /models)\" ] && "
        "echo 'OK ... Prefetched and valid (/models exists)' || "
        "(echo 'NOK ... Prefetched but modelcar is invalid (/models does not exist or is empty)' && exit 1)"
    )
    return {
        "name": name,
        "image": image,
        "args": ["sh", "-c", check],
        "resources": _resources(config),
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
