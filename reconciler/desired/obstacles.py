"""What a host cannot honour, known without asking it. All reasons are listed; any of them blocks the service. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from reconciler.config import HostTarget
from reconciler.desired.origins import Origins
from reconciler.engines.images import find_engine
from reconciler.engines.launch import unsupported
from reconciler.kserve.resolve import Issue
from reconciler.model import EffectiveSpec, EnvVar, Mount, Origin, Reason

# What the API server and KServe's pod webhook say of a Secret that is not there.
_NO_SECRET = re.compile(r'secrets "([^"]+)" not found')
_NO_KEY = re.compile(r"specified storage key (\S+) not found in storage secret (\S+)")


def missing_secret(issue: Issue, origins: Origins) -> Reason | None:
    """The obstacle in an error of KServe's that is about a Secret missing from the tree, and no fault of the spec."""
    found, found_key = _NO_SECRET.search(issue.message), _NO_KEY.search(issue.message)
    if not found and not found_key:
        return None
    name = found[1] if found else found_key[2] if found_key else ""
    key = origins.storage_key()
    what = f'key "{key}" of Secret {name}' if key else f"Secret {name}"
    text = f"the model's storage needs {what}, which is not in git beside this service"
    return Reason("MissingSecret", text, origins.of_storage(""))


def find_obstacles(
    spec: EffectiveSpec, argument_origins: tuple[Origin, ...], target: HostTarget, origins: Origins
) -> Iterator[Reason]:
    """Reasons why this spec cannot run on this host. GPUs and memory are the planner's: it knows what there is."""
    engine = find_engine(spec.image, target.engines)
    if engine is None:
        text = (
            f"no interpreter on this host runs the image {spec.image or '(none)'}; "
            f"map it in the config, targets[].engines of {target.name}"
        )
        yield Reason("NoEngine", text, origins.of_container_field("image"))
    for reason in unsupported(spec, argument_origins):
        yield reason if reason.origin else replace(reason, origin=origins.of_container_field("command"))
    for variable in spec.env:
        if variable.source and not (engine and variable.name in engine.env):
            yield _missing(variable, origins)
    for mount in spec.mounts:
        if obstacle := storage_obstacle(mount, target):
            yield Reason(*obstacle, origins.of_storage(mount.uri))


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
