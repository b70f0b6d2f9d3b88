"""What an API server adds to a pod before it stores it, so that ours and a recorded one can be compared whole."""

from __future__ import annotations

from typing import Any

_PROBE = {"timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}
_POD = {
    "restartPolicy": "Always",
    "dnsPolicy": "ClusterFirst",
    "schedulerName": "default-scheduler",
    "terminationGracePeriodSeconds": 30,
    "securityContext": {},
    "serviceAccountName": "default",
    "priority": 0,
    "preemptionPolicy": "PreemptLowerPriority",
    "enableServiceLinks": True,
}


def stored_pod(pod: dict[str, Any]) -> dict[str, Any]:
    """Our rendered pod with all the fields that an API server fills in."""
    spec = {**_POD, **{key: value for key, value in pod.items() if key not in ("labels", "annotations")}}
    spec["serviceAccount"] = spec["serviceAccountName"]
    for key in ("containers", "initContainers"):
        spec[key] = [_container(each) for each in spec[key]]
    spec["volumes"] = [_volume(each) for each in spec["volumes"]]
    return {key: value for key, value in spec.items() if value not in ([], None)}


def _container(container: dict[str, Any]) -> dict[str, Any]:
    image = container["image"]
    tagged = ":" in image.rsplit("/", 1)[-1] and not image.endswith(":latest")
    full = {
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "imagePullPolicy": "IfNotPresent" if tagged else "Always",
        **{key: value for key, value in container.items() if value not in ([], "")},
        "resources": _resources(container.get("resources") or {}),
    }
    if "ports" in full:
        full["ports"] = [{"protocol": "TCP", **port} for port in full["ports"]]
    if "env" in full:
        full["env"] = [_variable(each) for each in full["env"]]
    for name in ("livenessProbe", "readinessProbe", "startupProbe"):
        if name in full:
            full[name] = _probe(full[name])
    return full


def _resources(resources: dict[str, Any]) -> dict[str, Any]:
    if not resources.get("limits"):
        return resources
    return {**resources, "requests": {**resources["limits"], **resources.get("requests", {})}}


def _variable(variable: dict[str, Any]) -> dict[str, Any]:
    source = variable.get("valueFrom")
    if source and "fieldRef" in source:
        source = {"fieldRef": {"apiVersion": "v1", **source["fieldRef"]}}
    return {k: source if k == "valueFrom" else v for k, v in variable.items() if v != ""}


def _probe(probe: dict[str, Any]) -> dict[str, Any]:
    full = {**_PROBE, **probe}
    if "httpGet" in full:
        full["httpGet"] = {"scheme": "HTTP", **full["httpGet"]}
    return full


def _volume(volume: dict[str, Any]) -> dict[str, Any]:
    full = dict(volume)
    for kind in ("configMap", "secret", "projected"):
        if kind in full:
            full[kind] = {"defaultMode": 420, **full[kind]}
    return full
