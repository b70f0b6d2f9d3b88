"""What a host does not support, known without probing it.

All reasons are listed; any of them blocks the service. Pure.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator
from typing import assert_never
from urllib.parse import unquote

from reconciler.config.settings import DEFAULT_PATH, EngineSettings, HostSettings
from reconciler.desired.downloads import engine_downloads
from reconciler.desired.origins import Origins
from reconciler.desired.resources import exceeded_share
from reconciler.desired.secrets import Keyring, missing_secrets
from reconciler.desired.spec import Surroundings
from reconciler.desired.volumes import file_blockers, missing_source, paths_in_mounted_config
from reconciler.engines.container import API_KEY, UNKNOWN, Revealed, server_flags, unsupported
from reconciler.engines.environment import doubtful_image, find_engine
from reconciler.engines.file_arguments import CLOSED, is_below, is_systems_own, paths_in
from reconciler.model import EffectiveSpec, EnvVar, Mount, Origin, Reason, ReasonCode, texts
from reconciler.model.model_sources import SCHEMES, SOURCE_BY_SCHEME, ModelSource, shown
from reconciler.secrets.store import ALL, secret_ref

# What a unit's shell, loader and interpreter come from; and what these look into, where a folder may be mounted.
_PROGRAMS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/var/run")
_SETTINGS = ("/etc", "/var/cache", "/tmp")  # noqa: S108


def find_blockers(spec: EffectiveSpec, ring: Keyring, origins: Origins, around: Surroundings) -> Iterator[Reason]:
    """Reasons why this spec cannot run on this host.

    GPUs and memory are checked by the planner, which knows the capacity.
    """
    target = ring.target
    engine = find_engine(spec.image, target.engines)
    if engine is None:
        text = (
            f"nothing on this host runs the image {spec.image or '(none)'}; "
            f"map it in the config, targets[].engines of {target.name}"
        )
        # To map it would start what its arguments are not for.
        doubt = doubtful_image(spec.image, texts(spec.command))
        yield Reason(ReasonCode.NO_ENGINE, doubt or text, origins.of_container_field("image"))
    names = Revealed(_names(spec, ring))
    command, key = origins.of_container_field("command"), origins.of_variable(API_KEY)
    yield from unsupported(spec, command, names, key)
    yield from engine_downloads(spec, engine, names, origins)
    yield from exceeded_share(spec, names, origins)
    if spec.resources.mig and spec.resources.gpu_devices > 1:
        text = "a CUDA process can use only one MIG device; request one, and no other GPU"
        yield Reason(ReasonCode.TOO_MANY_DEVICES, text, origins.of_container_field("resources"))
    for variable in spec.env:
        if variable.source and not (engine and variable.name in engine.env):
            where = origins.of_variable(variable.name, variable.source)
            who = "the container's envFrom" if variable.name.endswith(ALL) else f"variable {variable.name}"
            yield from missing_source(variable.source, who, where, around)
    yield from file_blockers(spec, names, origins, around)
    yield from missing_secrets(spec, engine, ring, origins)
    for mount in spec.mounts:
        if blocker := storage_blocker(mount, target):
            yield Reason(*blocker, origins.of_mount(mount.path, mount.uri))
        yield from _missing_config_maps(mount, origins)
        if engine and (covered := _covered_by(mount.path, engine, target)):
            text = f"mountPath {mount.path} would hide {covered}, which the engine runs from; mount it elsewhere"
            yield Reason(ReasonCode.MOUNT_NOT_ALLOWED, text, origins.of_mount(mount.path, mount.uri))
    yield from closed_arguments(spec, origins.of_container_field("args"), names=names)


def closed_arguments(
    spec: EffectiveSpec,
    fallback: Origin,
    is_closed: Callable[[str], bool] = is_systems_own,
    names: Revealed = UNKNOWN,
) -> Iterator[Reason]:
    """Arguments that name what no service may read; whatever is mounted over it is another thing."""
    flags = server_flags(spec, names)
    message = ((*each, "") for each in paths_in(flags))
    for argument, flag, path, where in (*message, *paths_in_mounted_config(spec, flags)):
        if is_closed(path) and not any(is_below(path, each) for each in spec.mounted_paths):
            text = f"{where}{flag} {path}: {CLOSED}; keep what an engine reads in the model's folder"
            yield Reason(ReasonCode.PATH_NOT_ALLOWED, text, argument.origin or fallback)


def _covered_by(path: str, engine: EngineSettings, target: HostSettings) -> str:
    """What the engine would find something else instead of, if anything. A child process sees the host's folders."""
    match target.kind:
        case "process":
            return ""
        case "systemd":
            return _covered_in_unit(path, engine)
        case _:
            assert_never(target.kind)


def _covered_in_unit(path: str, engine: EngineSettings) -> str:
    if engine.python is None:
        return ""
    place = posixpath.normpath(path)
    if not path.startswith("/") or place.startswith("//") or ".." in path.split("/"):
        return "an unknown folder"
    own = str(engine.python.parent.parent)
    if is_systems_own(place) or any(is_below(place, each) for each in (*_PROGRAMS, own)):
        return next((each for each in (*_PROGRAMS, own) if is_below(place, each)), place)
    return next((each for each in (*_PROGRAMS, *_SETTINGS, own) if is_below(each, place)), "")


def _names(spec: EffectiveSpec, ring: Keyring) -> dict[EnvVar, dict[str, str]]:
    """The variables that whole Secrets define; validating a command needs no values."""
    found = {}
    for variable in spec.env:
        ref = secret_ref(variable)
        if ref and ref.key == ALL:
            prefix = variable.name.removesuffix(ALL)
            keys = ring.store.data(ring.namespace, ref.secret) or {}
            found[variable] = {prefix + key: "" for key in keys}
    return found


def _missing_config_maps(mount: Mount, origins: Origins) -> Iterator[Reason]:
    """What fetching a model needs of git. Where it needs Secrets, `missing_secrets` speaks."""
    named = [(each.source, each.name) for each in mount.env] + [(each.source, each.path) for each in mount.files]
    for source, needed_for in named:
        kind, _, what = source.partition(" ")
        if kind not in ("", "secret"):
            text = f"fetching {shown(mount.uri)} needs {kind} {what.partition('/')[0]} for {needed_for}"
            yield Reason(
                ReasonCode.CONFIG_MAP_NOT_FOUND,
                f"{text}, which is not in git next to it",
                origins.of_storage(mount.uri),
            )


def _is_closed(folder: str, target: HostSettings) -> bool:
    """By its name alone: where links lead is seen on the host."""
    if any(is_below(folder, str(each)) for each in (*target.closed, DEFAULT_PATH.parent)):
        return True
    return is_systems_own(folder) and not any(is_below(folder, str(each)) for each in target.volumes.values())


def storage_blocker(mount: Mount, target: HostSettings) -> tuple[ReasonCode, str] | None:
    """Code and text of why a model's files are not available here; None when they are."""
    uri = shown(mount.uri)
    scheme, separator, rest = uri.partition("://")
    if ".." in rest.split("/") or ".." in uri.split("/"):
        return ReasonCode.UNSUPPORTED_STORAGE, f"path must not contain `..`: {uri}"
    if "\0" in unquote(mount.uri):
        return ReasonCode.UNSUPPORTED_STORAGE, f"{mount.uri!a} holds a NUL character, which no path may"
    match SOURCE_BY_SCHEME.get(scheme if separator else ""):
        case ModelSource.FOLDER if (rest if separator else uri).startswith("/"):
            if _is_closed(unquote(rest) if separator else uri, target):
                return ReasonCode.PATH_NOT_ALLOWED, f"{uri}: {CLOSED}; keep models in a folder of their own"
            return None
        case ModelSource.CLAIM:
            return _volume_blocker(uri, rest.partition("/")[0], target)
        case ModelSource.FOLDER | None:
            return ReasonCode.UNSUPPORTED_STORAGE, _not_supported(uri)
        case _ if rest.strip("/"):
            return None
        case _:
            text = f"{uri} names nothing to fetch; write for example {scheme}://BUCKET/FOLDER"
            return ReasonCode.UNSUPPORTED_STORAGE, text


def _volume_blocker(uri: str, claim: str, target: HostSettings) -> tuple[ReasonCode, str] | None:
    if claim in target.volumes:
        return None
    known = ", ".join(sorted(target.volumes)) or "none"
    return (
        ReasonCode.CLAIM_NOT_FOUND,
        f"{uri}: targets[].volumes names no folder for the claim {claim} (it names {known})",
    )


def _not_supported(uri: str) -> str:
    known = ", ".join(f"{each}://" for each in SCHEMES)
    return (
        f"{uri}: a host reads models from file:///folder, an absolute path and pvc://NAME/folder, and fetches {known}"
    )
