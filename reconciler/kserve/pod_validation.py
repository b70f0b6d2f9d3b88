"""What an API server refuses about the Deployment, Service or pod that KServe makes, with its messages.

Only rules that a merge of runtime and service can break are here; everything else the schema has checked before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from reconciler.kserve.pod import Pod
from reconciler.kserve.quantity import amount, is_whole

Document = Mapping[str, Any]
_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_HANDLERS = ("exec", "httpGet", "tcpSocket", "grpc")
_PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
_PORT_NAME = re.compile(r"(?=.*[a-z])[a-z0-9]([a-z0-9]|-(?!-))*[a-z0-9]|[a-z]")


def deployment_problems(pod: Pod) -> Iterator[str]:
    """Problems of the pod template in a Deployment, each beginning with its path."""
    at = "spec.template.spec"
    volumes = {item.get("name") for item in pod.volumes}
    yield from _volume_problems(pod.volumes, f"{at}.volumes")
    seen: set[str] = set()
    for kind, containers in (("containers", pod.containers), ("initContainers", pod.init_containers)):
        for index, container in enumerate(containers):
            here = f"{at}.{kind}[{index}]"
            yield from _name_problems(container.get("name", ""), seen, here)
            yield from _container_problems(container, here, volumes)


def _name_problems(name: str, seen: set[str], at: str) -> Iterator[str]:
    if not name:
        yield f"{at}.name: Required value"
    elif not _DNS_LABEL.fullmatch(name) or len(name) > 63:
        rule = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-'"
        yield f'{at}.name: Invalid value: "{name}": {rule}'
    elif name in seen:
        yield f'{at}.name: Duplicate value: "{name}"'
    seen.add(name)


def _volume_problems(volumes: Sequence[Document], at: str) -> Iterator[str]:
    seen: set[str] = set()
    for index, volume in enumerate(volumes):
        here = f"{at}[{index}]"
        yield from _name_problems(volume.get("name", ""), seen, here)
        sources = [key for key in volume if key != "name"]
        for extra in sources[1:]:
            yield f"{here}.{extra}: Forbidden: may not specify more than 1 volume type"
        if not sources:
            yield f"{here}: Required value: must specify a volume type"


def _container_problems(container: Document, at: str, volumes: set[Any]) -> Iterator[str]:
    if not container.get("image", "").strip():
        yield f"{at}.image: Required value"
    yield from _mount_problems(container.get("volumeMounts") or (), f"{at}.volumeMounts", volumes)
    yield from _resource_problems(container.get("resources") or {}, f"{at}.resources")
    yield from _port_problems(container.get("ports") or (), f"{at}.ports")
    for index, item in enumerate(container.get("env") or ()):
        yield from _env_problems(item, f"{at}.env[{index}]")
    for name in _PROBES:
        if name in container:
            yield from _probe_problems(container[name], f"{at}.{name}", name)


def _mount_problems(mounts: Sequence[Document], at: str, volumes: set[Any]) -> Iterator[str]:
    seen = set()
    for index, mount in enumerate(mounts):
        path = mount.get("mountPath", "")
        if not mount.get("name"):
            yield f"{at}[{index}].name: Required value"
        elif mount["name"] not in volumes:
            yield f'{at}[{index}].name: Not found: "{mount["name"]}"'
        if not path:
            yield f"{at}[{index}].mountPath: Required value"
        elif path in seen:
            yield f'{at}[{index}].mountPath: Invalid value: "{path}": must be unique'
        seen.add(path)


def _resource_problems(resources: Document, at: str) -> Iterator[str]:
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    for name, value in requests.items():
        if name in limits and limits[name] != value and amount(value) > amount(limits[name]):
            rule = f"must be less than or equal to {name} limit of {limits[name]}"
            yield f'{at}.requests: Invalid value: "{value}": {rule}'
    for name in (*limits, *requests):
        if not _is_native(name) and "/" in name:
            yield from _extended_problems(name, limits, requests, at)


def _is_native(name: str) -> bool:
    return name in ("cpu", "memory", "ephemeral-storage", "storage") or name.startswith("hugepages-")


def _extended_problems(name: str, limits: Document, requests: Document, at: str) -> Iterator[str]:
    """GPUs and the like: whole numbers, and a request must equal its limit."""
    if name in requests and name not in limits:
        yield f"{at}.limits: Required value: Limit must be set for non overcommitable resources"
    elif name in requests and amount(requests[name]) != amount(limits[name]):
        value = requests[name]
        yield f'{at}.requests: Invalid value: "{value}": must be equal to {name} limit of {limits[name]}'
    for kind, amounts in (("limits", limits), ("requests", requests)):
        if name in amounts and not is_whole(amount(amounts[name])):
            yield f'{at}.{kind}[{name}]: Invalid value: "{amounts[name]}": must be an integer'


def _port_problems(ports: Sequence[Document], at: str) -> Iterator[str]:
    seen = set()
    for index, port in enumerate(ports):
        name, number = port.get("name", ""), port.get("containerPort", 0)
        if name and name in seen:
            yield f'{at}[{index}].name: Duplicate value: "{name}"'
        if name and (len(name) > 15 or not _PORT_NAME.fullmatch(name)):
            yield f'{at}[{index}].name: Invalid value: "{name}": must be no more than 15 characters, lower case'
        if not number:
            yield f"{at}[{index}].containerPort: Required value"
        elif not 1 <= number <= 65535:
            yield f"{at}[{index}].containerPort: Invalid value: {number}: must be between 1 and 65535, inclusive"
        seen.add(name)


def _env_problems(item: Document, at: str) -> Iterator[str]:
    name = item.get("name", "")
    if not name:
        yield f"{at}.name: Required value"
    elif "=" in name:
        yield f'{at}.name: Invalid value: "{name}": a valid environment variable name must not contain "="'
    source = item.get("valueFrom")
    if source is None:
        return
    if item.get("value"):
        yield f'{at}.valueFrom: Invalid value: "": may not be specified when `value` is not empty'
    if len(source) != 1:
        text = "may not have more than one field specified at a time" if source else "must specify one of: `fieldRef`"
        yield f'{at}.valueFrom: Invalid value: "": {text}'


def _probe_problems(probe: Document, at: str, kind: str) -> Iterator[str]:
    handlers = [name for name in _HANDLERS if name in probe]
    if not handlers:
        yield f"{at}: Required value: must specify a handler type"
    for extra in handlers[1:]:
        yield f"{at}.{extra}: Forbidden: may not specify more than 1 handler type"
    if kind != "readinessProbe" and probe.get("successThreshold", 1) != 1:
        yield f"{at}.successThreshold: Invalid value: {probe['successThreshold']}: must be 1"
    if "terminationGracePeriodSeconds" in probe and kind == "readinessProbe":
        yield f"{at}.terminationGracePeriodSeconds: Invalid value: must not be set for readinessProbes"
    for name in handlers:
        port = probe[name].get("port") if isinstance(probe[name], Mapping) else None
        if name != "exec" and isinstance(port, int) and not 1 <= port <= 65535:
            yield f"{at}.{name}.port: Invalid value: {port}: must be between 1 and 65535, inclusive"


def service_problems(container: Document) -> Iterator[str]:
    """Problems of the Service in front of the container: all its ports are exposed, so several need names."""
    ports = container.get("ports") or ()
    if len(ports) < 2:
        return
    seen: set[tuple[Any, Any]] = set()
    for index, port in enumerate(ports):
        if not port.get("name"):
            yield f"spec.ports[{index}].name: Required value"
        key = (port.get("containerPort") if index else 80, port.get("protocol", "TCP"))
        if key in seen:
            yield f"spec.ports[{index}]: Duplicate value: {key[0]}/{key[1]}"
        seen.add(key)
