"""Volumes whose files are in git: ConfigMaps, the pod's own fields, and both with Secrets in one folder. Pure."""

from __future__ import annotations

import binascii
import posixpath
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from reconciler.desired.origins import Origins
from reconciler.desired.pod_fields import file_field, resource_field
from reconciler.desired.spec import ALL_KEYS, Surroundings, UnusableField, field_source, secret_source
from reconciler.model import FileMount, Reason, ReasonCode, VolumeFile

Document = Mapping[str, Any]
PROVIDED = ("configMap", "downwardAPI", "projected")
# A file's name on Linux.
_LONGEST_NAME = 255


def build_file_mounts(container: Document, around: Surroundings, origins: Origins) -> tuple[FileMount, ...]:
    """What the container mounts of such volumes. Raises Unusable."""
    return tuple(_file_mounts(container, around, origins))


def _file_mounts(container: Document, around: Surroundings, origins: Origins) -> Iterator[FileMount]:
    volumes = {each.get("name"): each for each in around.pod.get("volumes") or ()}
    for each in container.get("volumeMounts") or ():
        volume, path = volumes.get(each.get("name")) or {}, str(each.get("mountPath"))
        if each.get("subPathExpr"):
            text = f"subPathExpr of the volume mounted at {path} is not supported on a host; write it out as subPath"
            raise UnusableField(Reason(ReasonCode.INVALID_VOLUME, text, origins.of_volume_mount(path)))
        # For a claim, and so for a model, the whole path is checked later.
        if "persistentVolumeClaim" not in volume and ".." in str(each.get("subPath") or "").split("/"):
            text = f"subPath of the volume mounted at {path} leads out of it; name what is in the volume"
            raise UnusableField(Reason(ReasonCode.INVALID_VOLUME, text, origins.of_volume_mount(path)))
        if any(key in volume for key in (*PROVIDED, "secret")) and not path.strip("/."):
            text = f"nothing can be mounted at {path} of a host; mount it in a folder of its own"
            raise UnusableField(Reason(ReasonCode.INVALID_VOLUME, text, origins.of_volume_mount(path)))
        if any(key in volume for key in (*PROVIDED, "secret")):
            files = tuple(_files(volume, container, around))
            if fault := _fault(files):
                name = str(volume.get("name"))
                raise UnusableField(
                    Reason(ReasonCode.INVALID_VOLUME, f"volume {name}: {fault}", origins.of_entry("volumes", name))
                )
            if "secret" not in volume:
                yield FileMount(path, files, str(each.get("subPath") or "").strip("/"))


def _files(volume: Document, container: Document, around: Surroundings) -> Iterator[VolumeFile]:
    if (secret := volume.get("secret")) is not None:
        yield from _of_secret(secret)
    if (held := volume.get("configMap")) is not None:
        yield from _of_config_map(held, around)
    if (fields := volume.get("downwardAPI")) is not None:
        yield from _of_pod(fields, container, around)
    for source in (volume.get("projected") or {}).get("sources") or ():
        known = {key: source[key] for key in ("configMap", "downwardAPI", "secret") if key in source}
        yield from _files(known, container, around)


def _of_config_map(held: Document, around: Surroundings) -> Iterator[VolumeFile]:
    name = str(held.get("name"))
    key = around.namespace, name
    texts, binaries = around.config_maps.get(key), around.binary_data.get(key, {})
    if texts is None:
        if not held.get("optional"):
            yield VolumeFile("", source=f"configmap {name}/{ALL_KEYS}")
        return
    for each, path in _items(held) or [(each, each) for each in sorted({*map(str, texts), *binaries})]:
        if each in texts:
            yield VolumeFile(path, str(texts[each]))
        elif each in binaries:
            yield VolumeFile(path, str(binaries[each]), is_base64=True)
        elif not held.get("optional"):
            yield VolumeFile(path, source=f"configmap {name}/{each}")


def _of_secret(secret: Document) -> Iterator[VolumeFile]:
    items = _items(secret)
    yield from (VolumeFile(path, source=secret_source(secret, key)) for key, path in items)
    if not items:
        yield VolumeFile("", source=secret_source(secret, ALL_KEYS))


def _of_pod(fields: Document, container: Document, around: Surroundings) -> Iterator[VolumeFile]:
    for item in fields.get("items") or ():
        path, reference = str(item.get("path")), item.get("resourceFieldRef")
        if reference is not None:
            value = resource_field(reference, around.pod, container)
        else:
            reference = item.get("fieldRef") or {}
            value = file_field(str(reference.get("fieldPath")), around.pod, around.namespace)
        yield VolumeFile(path, value) if value is not None else VolumeFile(path, source=field_source(reference))


def _items(source: Document) -> list[tuple[str, str]]:
    return [(str(item.get("key")), str(item.get("path"))) for item in source.get("items") or ()]


# ---------------------------------------------------------------- what cannot be written


def _fault(files: Iterable[VolumeFile]) -> str:
    """Why these files cannot be made; empty when they can."""
    paths = {each.path for each in files if each.path or not each.source}
    for path in sorted(paths):
        if path.startswith("/") or any(part in ("", ".", "..") for part in path.split("/")) or "\0" in path:
            return f"{path[:_LONGEST_NAME]!a} is not the path of a file below the folder where it is mounted"
        if any(len(part.encode("utf-8", "replace")) > _LONGEST_NAME for part in path.split("/")):
            return f"the file name {path[:_LONGEST_NAME]} is longer than {_LONGEST_NAME} bytes"
        folder = posixpath.dirname(path)
        while folder:
            if folder in paths:
                return f"{folder} cannot be a file and the folder of {path}"
            folder = posixpath.dirname(folder)
    for each in files:
        try:
            binascii.a2b_base64(each.text) if each.is_base64 else each.text.encode()
        except binascii.Error:
            return f"binaryData of {each.path} is not base64"
        except UnicodeEncodeError:
            return f"{each.path} holds half a character; remove it, or write binaryData"
    return ""
