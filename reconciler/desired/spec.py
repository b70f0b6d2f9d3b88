"""KServe's container for a service → what runs on a host, with fields and resources of its pod. Pure.

References to variables' values are resolved from what git itself holds; what git cannot tell stays a reference.
`$(NAME)` in a text stays as it is written: the host expands it when it starts the process, as the kubelet does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reconciler.desired.origins import CONTAINER, Origins
from reconciler.desired.resources import read_share
from reconciler.kserve.quantity import amount, cpu_millis, is_whole, memory_bytes
from reconciler.model import (
    GPU,
    EffectiveSpec,
    EnvVar,
    FileMount,
    Mount,
    Reason,
    ReasonCode,
    Resources,
    SecretMount,
)

Document = Mapping[str, Any]
# Engines of a host listen on its loopback address alone, and share its network.
_ADDRESS = "127.0.0.1"
_SUBSCRIPTED = re.compile(r"metadata\.(labels|annotations)\['([^']*)'\]")
_HUGE_PAGES = "hugepages-"
_RESOURCES = ("cpu", "memory", "ephemeral-storage")


def variable_field(path: str, pod: Document, namespace: str, node: str) -> str | None:
    """The value of a `fieldRef` of a variable; None where git cannot tell, or there is no such field."""
    if path.startswith("status."):
        return _ADDRESS if path in ("status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs") else None
    if path == "spec.nodeName":
        return node
    if path == "spec.serviceAccountName":
        return str(pod.get("serviceAccountName") or "default")
    return _metadata(path, pod, namespace)


def file_field(path: str, pod: Document, namespace: str) -> str | None:
    """The same of a file: all labels or annotations may be in one, a line each."""
    if path in ("metadata.labels", "metadata.annotations"):
        texts = pod.get(path.removeprefix("metadata.")) or {}
        return "\n".join(f"{key}={json.dumps(str(texts[key]), ensure_ascii=False)}" for key in sorted(texts))
    return _metadata(path, pod, namespace)


def _metadata(path: str, pod: Document, namespace: str) -> str | None:
    if path == "metadata.namespace":
        return namespace
    match = _SUBSCRIPTED.fullmatch(path)
    return str((pod.get(match[1]) or {}).get(match[2], "")) if match else None


def resource_field(reference: Document, pod: Document, container: Document) -> str | None:
    """The value of a `resourceFieldRef`; `container` is the one that it means unless it names another.

    None for a limit that is not set: it would be what the machine has.
    """
    if not is_resource(asked := str(reference.get("resource"))):
        return None
    kind, _, name = asked.partition(".")
    resources = _meant(reference, pod, container).get("resources") or {}
    limits = resources.get("limits") or {}
    requests = {name: 0, **limits, **(resources.get("requests") or {})}
    given = (requests if kind == "requests" else limits).get(name)
    if given is None:
        return None
    read = cpu_millis if name == "cpu" else memory_bytes
    try:
        return str(-(-read(given) // (read(reference.get("divisor") or 0) or read(1))))
    except (ValueError, ArithmeticError):
        return None


def is_resource(asked: str) -> bool:
    """Can a pod request it, such as `limits.cpu`?"""
    kind, _, name = asked.partition(".")
    return kind in ("limits", "requests") and (name in _RESOURCES or name.startswith(_HUGE_PAGES))


def _meant(reference: Document, pod: Document, container: Document) -> Document:
    if not (name := reference.get("containerName")):
        return container
    return next((each for each in _containers(pod) if each.get("name") == name), {})


def _containers(pod: Document) -> Iterator[Document]:
    for key in ("containers", "initContainers"):
        yield from pod.get(key) or ()


ConfigMaps = Mapping[tuple[str, str], Mapping[str, Any]]
ALL_KEYS = "*"
# Kubernetes keeps larger quantities as this one.
_MOST = 2**63 - 1


class UnusableField(Exception):
    """A field that cannot be used; `reason` says which, and where."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(str(reason))
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a container can refer to: its pod's metadata, and the ConfigMaps of its namespace.

    `ca_bundle` is the ConfigMap in KServe's own namespace that KServe copies into every other one, if there is one.
    `node` is the host's name. `binary_data` of each ConfigMap is base64.
    """

    namespace: str
    pod: Mapping[str, Any]
    config_maps: ConfigMaps
    ca_bundle: str = ""
    node: str = ""
    binary_data: ConfigMaps = field(default_factory=dict)


def find_container(pod: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The container that serves the model."""
    return next((each for each in pod.get("containers") or () if each.get("name") == CONTAINER), None)


def build_spec(
    container: Mapping[str, Any],
    mounts: tuple[Mount, ...],
    files: tuple[FileMount, ...],
    around: Surroundings,
    origins: Origins,
) -> EffectiveSpec:
    """What runs. Raises UnusableField."""
    return EffectiveSpec(
        image=str(container.get("image") or ""),
        command=origins.command(map(str, container.get("command") or ())),
        args=origins.arguments(map(str, container.get("args") or ())),
        env=resolve_variables(container, around),
        mounts=mounts,
        resources=_with_share(read_resources(container, origins), around, origins),
        secrets=tuple(build_secret_mounts(around.pod, container)),
        files=files,
    )


# ---------------------------------------------------------------- variables


def resolve_variables(container: Mapping[str, Any], around: Surroundings) -> tuple[EnvVar, ...]:
    """The variables in order, each once. Those that git alone cannot resolve keep their `source`."""
    found: dict[str, EnvVar] = {}
    for each in _from_whole_maps(container, around):
        _add(found, each.source if each.name.endswith("*") else each.name, each)
    for entry in container.get("env") or ():
        name = str(entry.get("name") or "")
        if entry.get("valueFrom"):
            variable = _referenced(name, entry["valueFrom"], container, around)
        else:
            variable = EnvVar(name, str(entry.get("value") or ""))
        if variable:
            _add(found, name, variable)
    return tuple(found.values())


def _add(found: dict[str, EnvVar], key: str, variable: EnvVar) -> None:
    """At the end: of several with one name the last counts, also where a whole Secret gives one of that name."""
    found.pop(key, None)
    found[key] = variable


def _from_whole_maps(container: Mapping[str, Any], around: Surroundings) -> Iterator[EnvVar]:
    for entry in container.get("envFrom") or ():
        prefix = str(entry.get("prefix") or "")
        for kind in ("configMapRef", "secretRef"):
            reference = entry.get(kind)
            if not reference:
                continue
            data = around.config_maps.get((around.namespace, str(reference.get("name"))))
            if kind == "configMapRef" and data is not None:
                yield from (EnvVar(prefix + str(key), str(value)) for key, value in data.items())
            elif kind == "secretRef":
                yield EnvVar(f"{prefix}*", source=secret_source(reference, ALL_KEYS))
            elif not reference.get("optional"):
                yield EnvVar(f"{prefix}*", source=f"configmap {reference.get('name')}/*")


def _referenced(
    name: str, source: Mapping[str, Any], container: Mapping[str, Any], around: Surroundings
) -> EnvVar | None:
    """None for an optional reference to a ConfigMap that is not there, as in a pod."""
    if reference := source.get("configMapKeyRef"):
        data = around.config_maps.get((around.namespace, str(reference.get("name"))), {})
        if reference.get("key") in data:
            return EnvVar(name, str(data[reference["key"]]))
        if reference.get("optional"):
            return None
        return EnvVar(name, source=f"configmap {reference.get('name')}/{reference.get('key')}")
    if reference := source.get("secretKeyRef"):
        return EnvVar(name, source=secret_source(reference, str(reference.get("key"))))
    value = None
    if reference := source.get("fieldRef"):
        value = variable_field(str(reference.get("fieldPath")), around.pod, around.namespace, around.node)
    elif reference := source.get("resourceFieldRef"):
        value = resource_field(reference, around.pod, container)
    return EnvVar(name, source=field_source(reference or source)) if value is None else EnvVar(name, value)


def field_source(reference: Mapping[str, Any]) -> str:
    """A field that git alone does not determine."""
    return f"field {reference.get('fieldPath') or reference.get('resource') or next(iter(reference), 'nothing')}"


def secret_source(reference: Mapping[str, Any], key: str) -> str:
    """Whether it is optional is part of it: the spec must not change when the Secret comes or goes."""
    return f"secret {reference.get('name')}/{key}" + (" optional" if reference.get("optional") else "")


# ---------------------------------------------------------------- secrets and resources


def build_secret_mounts(pod: Mapping[str, Any], container: Mapping[str, Any]) -> Iterator[SecretMount]:
    """The Secrets that the container mounts as files."""
    volumes = {each.get("name"): each for each in pod.get("volumes") or ()}
    for each in container.get("volumeMounts") or ():
        if secret := (volumes.get(each.get("name")) or {}).get("secret"):
            yield SecretMount(
                secret=str(secret.get("secretName")),
                path=str(each.get("mountPath")),
                items=tuple((str(item.get("key")), str(item.get("path"))) for item in secret.get("items") or ()),
                sub_path=str(each.get("subPath") or "").strip("/"),
                optional=secret.get("optional") is True,
            )


def read_resources(container: Mapping[str, Any], origins: Origins) -> Resources:
    """Requests, or limits where there is no request, as Kubernetes fills them in. Raises UnusableField."""
    given = container.get("resources") or {}
    limits = given.get("limits") or {}
    needed = {**limits, **(given.get("requests") or {})}

    def read(name: str, parse: Callable[[str], int], source: Mapping[str, Any] = needed) -> int:
        try:
            return parse(str(source[name])) if name in source else 0
        except (ValueError, ArithmeticError) as error:
            kind = "requests" if source is needed and name in (given.get("requests") or {}) else "limits"
            where = origins.of_container_field("resources", kind, name)
            raise UnusableField(Reason(ReasonCode.INVALID_QUANTITY, f"resources: {name}: {error}", where)) from None

    devices = [(name, read(name, _parse_count)) for name in sorted(needed) if "/" in name and name != GPU]
    return Resources(
        gpus=read(GPU, _parse_count),
        cpu_millis=read("cpu", cpu_millis),
        memory_bytes=read("memory", memory_bytes),
        other=tuple((name, count) for name, count in devices if count),
        cpu_limit_millis=read("cpu", cpu_millis, limits),
        memory_limit_bytes=read("memory", memory_bytes, limits),
    )


def _with_share(resources: Resources, around: Surroundings, origins: Origins) -> Resources:
    shared = read_share(resources, around.pod, origins)
    if isinstance(shared, Reason):
        raise UnusableField(shared)
    return shared


def _parse_count(text: str) -> int:
    count = amount(text)
    if count < 0 or not is_whole(count):
        raise ValueError(f'"{text}" is not a whole number of devices')
    return min(int(count), _MOST)


def names_of(containers: Sequence[Mapping[str, Any]] | None, except_for: frozenset[str]) -> list[str]:
    """Names of containers, without those that KServe adds by itself."""
    return [str(each.get("name")) for each in containers or () if each.get("name") not in except_for]
