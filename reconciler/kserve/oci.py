"""Models in OCI images: a sidecar whose files are reached through the process table, or an image volume."""

from __future__ import annotations

import re
from collections.abc import Sequence

from reconciler.kserve import names
from reconciler.kserve.config import Config
from reconciler.kserve.pod import Container, Pod, add_mount, set_env
from reconciler.kserve.storage import StorageError, parent_folder, split_oci, volume_name

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
