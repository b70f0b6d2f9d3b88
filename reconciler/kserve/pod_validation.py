"""What an API server refuses about the Deployment, Service or pod that KServe makes, in its own messages. Pure.

Only rules that a merge of runtime and service can break are here; everything else the schema has checked before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from reconciler.kserve.pod import Pod
from reconciler.kserve.quantity import amount, is_whole
from reconciler.kserve.schema import Flaw, Path

_NAME = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]", re.ASCII)
_PREFIX = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", re.ASCII)
_ANNOTATION_BYTES = 256 * 1024
_VALUE_RULE = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is "
    "'(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)
_KEY_RULE = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
    "character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)


def metadata_flaws(document: Mapping[str, Any]) -> Iterator[Flaw]:
    """Flaws of `metadata.labels` and `metadata.annotations`."""
    metadata = document.get("metadata") or {}
    yield from label_flaws(metadata.get("labels") or {}, ("metadata", "labels"))
    annotations = metadata.get("annotations") or {}
    for key in annotations:
        if problem := _key_problem(key.lower()):
            yield _flaw(("metadata", "annotations"), key, problem)
    if sum(len(key) + len(value) for key, value in annotations.items()) > _ANNOTATION_BYTES:
        text = f"metadata.annotations: Too long: may not be more than {_ANNOTATION_BYTES} bytes"
        yield Flaw(("metadata", "annotations"), text)


def label_flaws(labels: Mapping[str, str], at: Path) -> Iterator[Flaw]:
    """Flaws of a map of labels, also those of a node selector."""
    for key, value in labels.items():
        if problem := _key_problem(key):
            yield _flaw(at, key, problem)
        if len(value) > 63:
            yield _flaw(at, value, "must be no more than 63 bytes", key)
        elif value and not _NAME.fullmatch(value):
            yield _flaw(at, value, _VALUE_RULE, key)


def _flaw(at: Path, shown: str, problem: str, key: str = "") -> Flaw:
    return Flaw((*at, key or shown), f'{".".join(at)}: Invalid value: "{shown}": {problem}')


def _key_problem(key: str) -> str:
    prefix, slash, name = key.rpartition("/")
    if slash and (not _PREFIX.fullmatch(prefix) or len(prefix) > 253):
        return (
            "prefix part a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.'"
        )
    if not name:
        return "name part must be non-empty"
    if len(name) > 63:
        return "name part must be no more than 63 bytes"
    return "" if _NAME.fullmatch(name) else _KEY_RULE


Document = Mapping[str, Any]
_POD_WORDS = {
    "restartPolicy": ("Always",),
    "dnsPolicy": ("ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"),
    "preemptionPolicy": ("PreemptLowerPriority", "Never"),
}
_CONTAINER_WORDS = {
    "imagePullPolicy": ("Always", "IfNotPresent", "Never"),
    "terminationMessagePolicy": ("File", "FallbackToLogsOnError"),
}
_PROTOCOLS = ("SCTP", "TCP", "UDP")
_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")


def word_problems(pod: Pod) -> Iterator[str]:
    """Problems of a pod template, each beginning with its path."""
    at = "spec.template.spec"
    yield from _words(pod.fields, _POD_WORDS, at)
    for kind, containers in (("containers", pod.containers), ("initContainers", pod.init_containers)):
        for index, container in enumerate(containers):
            here = f"{at}.{kind}[{index}]"
            yield from _words(container, _CONTAINER_WORDS, here)
            for number, port in enumerate(container.get("ports") or ()):
                yield from _words(port, {"protocol": _PROTOCOLS}, f"{here}.ports[{number}]")
    for index, item in enumerate(pod.fields.get("tolerations") or ()):
        yield from _toleration_problems(item, f"{at}.tolerations[{index}]")
    if pod.fields.get("terminationGracePeriodSeconds", 0) < 0:
        yield f"{at}.terminationGracePeriodSeconds: Invalid value: must be greater than or equal to 0"
    for flaw in label_flaws(pod.fields.get("nodeSelector") or {}, ("spec", "template", "spec", "nodeSelector")):
        yield flaw.message
    for flaw in label_flaws(pod.labels, ("spec", "template", "labels")):
        yield flaw.message


def _words(holder: Document, allowed: Mapping[str, Sequence[str]], at: str) -> Iterator[str]:
    for key, words in allowed.items():
        if key in holder and holder[key] not in words:
            known = ", ".join(f'"{word}"' for word in sorted(words))
            yield f'{at}.{key}: Unsupported value: "{holder[key]}": supported values: {known}'


def _toleration_problems(item: Document, at: str) -> Iterator[str]:
    key, operator, value = item.get("key", ""), item.get("operator", "Equal"), item.get("value", "")
    if not key and operator != "Exists":
        text = 'operator must be Exists when `key` is empty, which means "match all values and all keys"'
        yield f'{at}.operator: Invalid value: "{item.get("operator", "")}": {text}'
    if operator == "Exists" and value:
        yield f"{at}.operator: Invalid value: \"{value}\": value must be empty when `operator` is 'Exists'"
    if operator not in ("Equal", "Exists", "Lt", "Gt"):
        yield f'{at}.operator: Unsupported value: "{operator}": supported values: "Equal", "Exists"'
    effect = item.get("effect", "")
    if effect and effect not in _EFFECTS:
        known = ", ".join(f'"{word}"' for word in _EFFECTS)
        yield f'{at}.effect: Unsupported value: "{effect}": supported values: {known}'
    if "tolerationSeconds" in item and effect != "NoExecute":
        yield f"{at}.effect: Invalid value: \"{effect}\": effect must be 'NoExecute' when `tolerationSeconds` is set"


def strategy_problems(strategy: Document | None) -> Iterator[str]:
    """Problems of a Deployment's strategy."""
    if not strategy:
        return
    kind = strategy.get("type", "RollingUpdate")
    if kind == "Recreate" and "rollingUpdate" in strategy:
        yield "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'"
    elif kind not in ("Recreate", "RollingUpdate"):
        yield f'spec.strategy.type: Unsupported value: "{kind}": supported values: "Recreate", "RollingUpdate"'
    rolling = strategy.get("rollingUpdate") or {}
    if kind == "RollingUpdate" and _is_zero(rolling.get("maxUnavailable")) and _is_zero(rolling.get("maxSurge")):
        text = "may not be 0 when `maxSurge` is 0"
        yield f"spec.strategy.rollingUpdate.maxUnavailable: Invalid value: {rolling['maxUnavailable']}: {text}"


def _is_zero(value: Any) -> bool:
    return value in (0, "0", "0%")


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
