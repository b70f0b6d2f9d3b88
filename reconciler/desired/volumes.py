"""Where a service's models come from, volumes whose files git holds, and files that are missing there. Pure.

Secrets stay references: their values belong neither into a digest nor into a record.
"""

from __future__ import annotations

import binascii
import posixpath
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from reconciler.desired.origins import Origins
from reconciler.desired.spec import (
    ALL_KEYS,
    Surroundings,
    UnusableField,
    field_source,
    file_field,
    is_resource,
    resolve_variables,
    resource_field,
    secret_source,
)
from reconciler.engines.arguments import values_with_arguments
from reconciler.engines.container import Revealed, given_at_start, held_files, server_flags
from reconciler.engines.file_arguments import CONFIG, FileContent, Named, is_below, named_files, paths_in, written_in
from reconciler.formats import strict_yaml
from reconciler.formats.spelling import nearest
from reconciler.kserve.names import STORAGE_INITIALIZER
from reconciler.kserve.resolve import Resolved, ResolvedStorage
from reconciler.model import (
    Argument,
    EffectiveSpec,
    FileMount,
    Mount,
    Origin,
    Reason,
    ReasonCode,
    StorageFile,
    VolumeFile,
)
from reconciler.model.model_sources import is_fetched

Document = Mapping[str, Any]
PROVIDED = ("configMap", "downwardAPI", "projected")
# A file's name on Linux.
_LONGEST_NAME = 255


def build_file_mounts(container: Document, around: Surroundings, origins: Origins) -> tuple[FileMount, ...]:
    """What the container mounts of such volumes. Raises UnusableField."""
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
    return replace(mount, env=env, files=tuple(_storage_files(resolved, around)))


def _storage_files(resolved: Resolved, around: Surroundings) -> Iterator[StorageFile]:
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


_SHOWN = 10


def file_blockers(spec: EffectiveSpec, names: Revealed, origins: Origins, around: Surroundings) -> Iterator[Reason]:
    """What keeps mounted files from being there. Of Secrets, others speak."""
    for volume in spec.files:
        where = origins.of_volume_mount(volume.path)
        for file in volume.files:
            yield from _unknown(file, f"the volume mounted at {volume.path}", where, around)
        if volume.sub_path and _is_known(volume) and not _has(volume, volume.sub_path):
            text = f"subPath {volume.sub_path} of the volume mounted at {volume.path}: {_no_such(volume)}"
            yield Reason(ReasonCode.FILE_NOT_FOUND, text, where)
    for one in named_files(server_flags(spec, names)) if spec.files else ():
        inner = _innermost(one.path, spec)
        if inner is not None and _is_known(inner) and not _serves(inner, one):
            text = f"{one.flag} {one.path}: {_no_such(inner)}; add it, or name one of these"
            yield Reason(ReasonCode.FILE_NOT_FOUND, text, one.argument.origin or origins.of_volume_mount(inner.path))


def paths_in_mounted_config(spec: EffectiveSpec, flags: Sequence[Argument]) -> Iterator[tuple[Argument, str, str, str]]:
    """Paths in vLLM's own file of arguments, where git holds that: what names it, flag, path, and which file."""
    files = {f"{where}/{name}": data for where, found in held_files(spec) for name, data in found.items()}
    for argument, path in values_with_arguments(flags, CONFIG)[:1] if files else ():
        try:
            words = written_in(strict_yaml.load_one(files.get(posixpath.normpath(path), b"")).value)
        except strict_yaml.YamlProblem:
            continue
        yield from ((argument, flag, named, f"{CONFIG} {path}: ") for _, flag, named in paths_in(words))


def missing_source(source: str, who: str, where: Origin, around: Surroundings) -> Iterator[Reason]:
    """The blocker for a missing ConfigMap, or a field that a host does not have; None for all other sources."""
    kind, _, what = source.partition(" ")
    if kind == "configmap":
        holder, _, key = what.partition("/")
        part = "all of" if key == ALL_KEYS else f'key "{key}" of'
        yield Reason(
            ReasonCode.CONFIG_MAP_NOT_FOUND, f"{who} needs {part} ConfigMap {holder}, {_why(holder, around)}", where
        )
    elif kind == "field" and not given_at_start(source):
        text = f"{who} needs {what} of a pod; a host has none"
        if is_resource(what):
            text = f"{who} needs {what}, which is not set; add it to the container's resources"
        elif what.startswith(("limits.", "requests.")):
            kinds = "use cpu, memory, ephemeral-storage or hugepages"
            text = f"{who} needs {what}, which is not a resource of the downward API; {kinds}"
        yield Reason(ReasonCode.UNSUPPORTED_FIELD, text, where)


def _why(config_map: str, around: Surroundings) -> str:
    """Why a ConfigMap, or a key of it, is not there, and what may be meant."""
    data = around.config_maps.get((around.namespace, config_map))
    if data is not None:
        return f"which has no such key (it has: {_listed({*map(str, data), *_binaries(config_map, around)})})"
    text = "which is not in git with this service"
    if elsewhere := sorted(space for space, name in around.config_maps if name == config_map):
        return f"{text}; one exists in namespace {elsewhere[0]}"
    near = nearest(config_map, (name for space, name in around.config_maps if space == around.namespace))
    return f"{text}; did you mean {near}?" if near else text


def _binaries(config_map: str, around: Surroundings) -> Iterable[str]:
    return map(str, around.binary_data.get((around.namespace, config_map), ()))


def _unknown(file: VolumeFile, who: str, where: Origin, around: Surroundings) -> Iterator[Reason]:
    return missing_source(file.source, f"{file.path} in {who}" if file.path else who, where, around)


def _innermost(path: str, spec: EffectiveSpec) -> FileMount | None:
    """The volume of files that a path lies in, if nothing else is mounted further inside."""
    places = [each for each in spec.mounted_paths if is_below(path, each)]
    inner = max(places, key=len, default="")
    return next((each for each in spec.files if each.path == inner), None)


def _is_known(volume: FileMount) -> bool:
    """Are the names of all its files known?"""
    return all(each.path for each in volume.files)


def _serves(volume: FileMount, one: Named) -> bool:
    below = posixpath.relpath(one.path, volume.path)
    inside = posixpath.normpath(posixpath.join(volume.sub_path, below))
    paths = {each.path for each in volume.files}
    return inside in paths if one.holds is FileContent.FILE else inside == "." or _has(volume, inside)


def _has(volume: FileMount, path: str) -> bool:
    return any(is_below(each.path, path) for each in volume.files)


def _no_such(volume: FileMount) -> str:
    return f"the volume has no such file (it has: {_listed({each.path for each in volume.files})})"


def _listed(names: Collection[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(sorted(names)[:_SHOWN]) or 'none'}{more}"
