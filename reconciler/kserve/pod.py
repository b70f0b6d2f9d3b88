"""A pod template under construction, and the small steps that every part of KServe takes on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from reconciler.kserve import names

Document = Mapping[str, Any]
Container = dict[str, Any]


@dataclass(slots=True)
class Pod:
    """Containers are this pod's own; what stands inside them may be shared and is replaced, never changed."""

    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    containers: list[Container] = field(default_factory=list)
    init_containers: list[Container] = field(default_factory=list)
    volumes: list[Document] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=dict)

    def container(self, name: str) -> Container | None:
        return next((each for each in self.containers if each.get("name") == name), None)

    def init_container(self, name: str) -> Container | None:
        return next((each for each in self.init_containers if each.get("name") == name), None)

    def add_volume(self, volume: Document) -> None:
        """Unless there is one of that name."""
        if all(each.get("name") != volume["name"] for each in self.volumes):
            self.volumes.append(volume)

    def document(self) -> dict[str, Any]:
        """The pod as `render` shows it."""
        result = {
            "labels": self.labels,
            "annotations": self.annotations,
            "containers": self.containers,
            "initContainers": self.init_containers,
            "volumes": self.volumes,
        }
        return {**result, **self.fields}


def set_env(container: Container, name: str, value: str) -> None:
    """Give the first variable of that name this value, or append one; an old reference stays, as in KServe."""
    env = list(container.get("env") or ())
    for index, item in enumerate(env):
        if item.get("name") == name:
            env[index] = {**item, "value": value}
            break
    else:
        env.append({"name": name, "value": value})
    container["env"] = env


def add_env(container: Container, name: str, value: str) -> None:
    """Append a variable unless there is one of that name."""
    env = container.get("env") or ()
    if all(item.get("name") != name for item in env):
        container["env"] = [*env, {"name": name, "value": value}]


def add_mount(container: Container, mount: Document) -> bool:
    """Append a mount unless that volume is mounted already; True when it was added."""
    mounts = container.get("volumeMounts") or ()
    if any(item.get("name") == mount["name"] for item in mounts):
        return False
    container["volumeMounts"] = [*mounts, mount]
    return True


def first_port(container: Document, default: int = 8080) -> int:
    ports = container.get("ports") or ()
    return int(ports[0].get("containerPort", 0)) if ports else default


def add_default_fields(pod: Pod) -> None:
    """What KServe writes into a Deployment: pod defaults, and a TCP readiness probe on the containers that serve."""
    for key, value in _POD_DEFAULTS.items():
        pod.fields.setdefault(key, value)
    for container in pod.containers:
        container.setdefault("terminationMessagePath", "/dev/termination-log")
        container.setdefault("terminationMessagePolicy", "File")
        container.setdefault("imagePullPolicy", "IfNotPresent")
        if container.get("name") in _SERVING and "readinessProbe" not in container:
            container["readinessProbe"] = {
                "tcpSocket": {"port": first_port(container)},
                "timeoutSeconds": 1,
                "periodSeconds": 10,
                "successThreshold": 1,
                "failureThreshold": 3,
            }


_SERVING = (names.KSERVE_CONTAINER, names.TRANSFORMER_CONTAINER)
_POD_DEFAULTS: Mapping[str, Any] = {
    "dnsPolicy": "ClusterFirst",
    "restartPolicy": "Always",
    "terminationGracePeriodSeconds": 30,
    "securityContext": {},
    "schedulerName": "default-scheduler",
}
