"""A service's model sources, and what downloading them needs. Pure.

Secrets stay references: their values belong neither into a digest nor into a record.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from reconciler.desired.spec import Surroundings, resolve_variables
from reconciler.desired.volumes import PROVIDED
from reconciler.kserve.names import STORAGE_INITIALIZER
from reconciler.kserve.resolve import Resolved, ResolvedStorage
from reconciler.model import Mount, StorageFile
from reconciler.model.model_sources import is_fetched

Document = Mapping[str, Any]
# KServe's own namespace, and the name under which it copies its CA bundle into the others.
KSERVE_NAMESPACE, CA_BUNDLE_COPY = "kserve", "global-ca-bundle"


def build_mounts(resolved: Resolved, container: Document, around: Surroundings) -> tuple[Mount, ...]:
    """The model's files, then claims and host folders that the container mounts by itself."""
    mounts = {each.mount_path: _mount(each, resolved, around) for each in resolved.storage}
    volumes = {each.get("name"): each for each in resolved.pod.get("volumes") or ()}
    for each in container.get("volumeMounts") or ():
        path, uri = str(each.get("mountPath")), _volume_uri(volumes.get(each.get("name")) or {})
        if uri and path not in mounts:
            mounts[path] = Mount("/".join(filter(None, (uri, str(each.get("subPath") or "").strip("/")))), path)
    return tuple(mounts.values())


def _volume_uri(volume: Document) -> str:
    if claim := volume.get("persistentVolumeClaim"):
        return f"pvc://{claim.get('claimName')}"
    if folder := volume.get("hostPath"):
        return f"file://{str(folder.get('path')).rstrip('/')}"
    return ""


def _mount(storage: ResolvedStorage, resolved: Resolved, around: Surroundings) -> Mount:
    mount = Mount(storage.uri, storage.mount_path)
    if not is_fetched(storage.uri):
        return mount
    env = resolve_variables({"env": storage.env}, around)
    return replace(mount, env=env, files=tuple(_files(resolved, around)))


def _files(resolved: Resolved, around: Surroundings) -> Iterator[StorageFile]:
    """What Secrets and ConfigMaps are mounted into KServe's initializer."""
    initializer = _named(resolved.pod.get("initContainers"), STORAGE_INITIALIZER)
    for mount in initializer.get("volumeMounts") or ():
        path = str(mount.get("mountPath")).rstrip("/")
        volume = _named(resolved.pod.get("volumes"), mount.get("name"))
        if secret := volume.get("secret"):
            yield StorageFile(path, source=f"secret {secret.get('secretName')}/*")
        elif held := volume.get("configMap"):
            yield from _config_map(path, str(held.get("name")), around)


def _config_map(path: str, name: str, around: Surroundings) -> Iterator[StorageFile]:
    data = around.config_maps.get((around.namespace, name))
    if data is None and name == CA_BUNDLE_COPY:
        data = around.config_maps.get((KSERVE_NAMESPACE, around.ca_bundle))
    if data is None:
        yield StorageFile(path, source=f"configmap {name}/*")
        return
    yield from (StorageFile(f"{path}/{key}", text=str(text)) for key, text in sorted(data.items()))


def _named(items: Any, name: Any) -> Document:
    return next((each for each in items or () if each.get("name") == name), {})


def ignored_volumes(resolved: Resolved, container: Document) -> list[str]:
    """Names of mounted volumes that a host does not provide. Scratch space needs none."""
    harmless = (*PROVIDED, "emptyDir", "persistentVolumeClaim", "hostPath", "secret")
    mounted = _mounted_volumes(resolved, container)
    return [str(each.get("name")) for each in mounted if not any(key in each for key in harmless)]


def ignored_sources(resolved: Resolved, container: Document) -> list[tuple[str, str]]:
    """Volumes of several sources with those of them that a host does not provide."""
    provided = ("configMap", "downwardAPI", "secret")
    return [
        (str(volume.get("name")), key)
        for volume in _mounted_volumes(resolved, container)
        for source in (volume.get("projected") or {}).get("sources") or ()
        for key in source
        if key not in provided
    ]


def _mounted_volumes(resolved: Resolved, container: Document) -> list[Document]:
    mounted = {each.get("name") for each in container.get("volumeMounts") or ()}
    return [each for each in resolved.pod.get("volumes") or () if each.get("name") in mounted]
