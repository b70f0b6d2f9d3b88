"""Missing files of mounted volumes: not in git, or named by arguments but not mounted. Pure."""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Iterable, Iterator, Sequence

from reconciler.desired.origins import Origins
from reconciler.desired.pod_fields import is_resource
from reconciler.desired.spec import ALL_KEYS, Surroundings
from reconciler.engines.arguments import values_with_arguments
from reconciler.engines.file_arguments import CONFIG, FileContent, Named, is_below, named_files, paths_in, written_in
from reconciler.engines.launch import Revealed, given_at_start, held_files, server_flags
from reconciler.formats import strict_yaml
from reconciler.formats.spelling import nearest
from reconciler.model import Argument, EffectiveSpec, FileMount, Origin, Reason, ReasonCode, VolumeFile

_SHOWN = 10


def file_obstacles(spec: EffectiveSpec, names: Revealed, origins: Origins, around: Surroundings) -> Iterator[Reason]:
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
