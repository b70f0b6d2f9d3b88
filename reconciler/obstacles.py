"""What a host cannot honour, known without asking it. All reasons are listed; any of them blocks the service. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from reconciler.config import HostTarget
from reconciler.engines.images import SERVER_MODULE, engine_arguments, find_engine
from reconciler.model import EffectiveSpec, EnvVar, Mount, Reason
from reconciler.origins import Origins


def find_obstacles(spec: EffectiveSpec, target: HostTarget, origins: Origins) -> tuple[Reason, ...]:
    """Reasons why this spec cannot run on this host. GPUs and memory are the planner's: it knows what there is."""
    return tuple(_all(spec, target, origins))


def _all(spec: EffectiveSpec, target: HostTarget, origins: Origins) -> Iterator[Reason]:
    engine = find_engine(spec.image, target.engines)
    if engine is None:
        text = (
            f"no interpreter on this host runs the image {spec.image or '(none)'}; "
            f"map it in the config, targets[].engines of {target.name}"
        )
        yield Reason("NoEngine", text, origins.of_container_field("image"))
    if engine_arguments(spec.command, spec.args) is None:
        text = (
            f"a host cannot run the command {_shown(spec.command)}; it runs `python -m {SERVER_MODULE}`, `vllm serve`, "
            "or the image's own entry point"
        )
        yield Reason("CommandUnsupported", text, origins.of_container_field("command"))
    for variable in spec.env:
        if variable.source and not (engine and variable.name in engine.env):
            yield _missing(variable, origins)
    for mount in spec.mounts:
        if reason := storage_obstacle(mount, target):
            yield Reason(*reason, origins.of_storage(mount.uri))


def _shown(command: tuple[str, ...]) -> str:
    text = " ".join(command)
    return f"`{text}`" if len(text) <= 80 else f"`{text[:79]}…`"


def _missing(variable: EnvVar, origins: Origins) -> Reason:
    kind, _, what = variable.source.partition(" ")
    where = origins.of_variable(variable.name)
    holder, _, key = what.partition("/")
    part = "all of" if key == "*" else f'key "{key}" of'
    if kind == "secret":
        text = f"variable {variable.name} needs {part} Secret {holder}, and this host resolves no Secrets"
        return Reason("MissingSecret", f"{text}; give the variable in the config, targets[].engines[].env", where)
    if kind == "configmap":
        text = f"variable {variable.name} needs {part} ConfigMap {holder}, which is not in git beside this service"
        return Reason("MissingConfigMap", text, where)
    return Reason("FieldUnsupported", f"variable {variable.name} needs {what} of a pod; a host has none", where)


def storage_obstacle(mount: Mount, target: HostTarget) -> tuple[str, str] | None:
    """Code and text of why a model's files cannot be had here; None when they can."""
    uri = re.sub(r"//[^/@]*@", "//", mount.uri)  # a password may stand there
    scheme, separator, rest = uri.partition("://")
    if ".." in rest.split("/") or ".." in uri.split("/"):
        return "StorageUnsupported", f"{uri} climbs out of its folder with `..`"
    if (not separator and uri.startswith("/")) or (scheme == "file" and rest.startswith("/")):
        return None
    if scheme == "pvc" and separator:
        claim = rest.partition("/")[0]
        if claim in target.volumes:
            return None
        known = ", ".join(sorted(target.volumes)) or "none"
        return "NoVolume", f"{uri}: targets[].volumes names no folder for the claim {claim} (it names {known})"
    text = f"{uri}: this version fetches no models; use file:///folder, an absolute path or pvc://NAME/folder"
    return "StorageUnsupported", text
