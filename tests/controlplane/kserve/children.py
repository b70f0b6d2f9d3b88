"""The objects that KServe was seen to make for an InferenceService in mode Standard. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Document = dict[str, Any]
KINDS = {
    "Deployment": "apps/v1",
    "Service": "v1",
    "HorizontalPodAutoscaler": "autoscaling/v2",
    "Ingress": "networking.k8s.io/v1",
}
BY_SCALER = ("HorizontalPodAutoscaler",)
"""Those that one annotation switches on and off."""
_DOMAIN = "example.com"
_INITIALIZER = "storage-initializer"


def make_children(
    service: Mapping[str, Any], template: Mapping[str, Any], progress_deadline: int
) -> dict[str, Document]:
    """By kind, all but the Ingress; `template` is the pod without its storage."""
    made = {"Service": _service(service, template), "Deployment": _deployment(service, template, progress_deadline)}
    if _scaler(service) == "hpa":
        made["HorizontalPodAutoscaler"] = _autoscaler(service, template)
    return made


def make_ingress(service: Mapping[str, Any]) -> Document:
    """There is none before the predictor was ready once."""
    name, namespace = service["metadata"]["name"], service["metadata"]["namespace"]
    backend = {"service": {"name": f"{name}-predictor", "port": {"number": 80}}}
    paths = [{"path": "/", "pathType": "Prefix", "backend": backend}]
    hosts = [f"{each}-{namespace}.{_DOMAIN}" for each in (name, f"{name}-predictor")]
    rules = [{"host": host, "http": {"paths": paths}} for host in hosts]
    made = _child(service, "Ingress", {"labels": {}, "annotations": {}}, {"ingressClassName": "istio", "rules": rules})
    made["metadata"] |= {"name": name, "annotations": dict(service["metadata"].get("annotations") or {})}
    return made


def place_of(service: Mapping[str, Any], kind: str) -> Document:
    """Enough of a child to find it."""
    namespace, name = service["metadata"]["namespace"], service["metadata"]["name"]
    name = name if kind == "Ingress" else f"{name}-predictor"
    return {"apiVersion": KINDS[kind], "kind": kind, "metadata": {"name": name, "namespace": namespace}}


def without_storage(service: Mapping[str, Any]) -> Document:
    """A service like this one whose pod gets no storage: KServe adds none where there is an initializer already."""
    predictor = dict(service["spec"]["predictor"])
    predictor["initContainers"] = [*predictor.get("initContainers", ()), {"name": _INITIALIZER, "image": "-"}]
    return {**service, "spec": {**service["spec"], "predictor": predictor}}


def with_storage(spec: Mapping[str, Any], rendered: Mapping[str, Any]) -> Document:
    """A pod as the API server has it so far, with what the rendered one has in addition."""
    result = dict(spec)
    for key in ("initContainers", "containers"):
        wanted = {each["name"]: each for each in rendered.get(key) or ()}
        given = [_completed(each, wanted.pop(each["name"], {})) for each in spec.get(key) or ()]
        result[key] = [*given, *wanted.values()]
    names = {each["name"] for each in spec.get("volumes") or ()}
    added = [each for each in rendered.get("volumes") or () if each["name"] not in names]
    return {**result, "volumes": [*(spec.get("volumes") or ()), *added]}


def _completed(container: Mapping[str, Any], rendered: Mapping[str, Any]) -> Document:
    result = dict(container)
    for key, by in (("env", "name"), ("volumeMounts", "mountPath")):
        names = {each[by] for each in container.get(key) or ()}
        added = [each for each in rendered.get(key) or () if each[by] not in names]
        if added:
            result[key] = [*(container.get(key) or ()), *added]
    return result


def urls_of(service: Mapping[str, Any]) -> dict[str, str]:
    namespace, name = service["metadata"]["namespace"], service["metadata"]["name"]
    return {
        "service": f"http://{name}-{namespace}.{_DOMAIN}",
        "predictor": f"http://{name}-predictor-{namespace}.{_DOMAIN}",
        "address": f"http://{name}-predictor.{namespace}.svc.cluster.local",
    }


def _scaler(service: Mapping[str, Any]) -> str:
    found = (service["metadata"].get("annotations") or {}).get("serving.kserve.io/autoscalerClass", "hpa")
    return str(found)


def _child(service: Mapping[str, Any], kind: str, pod: Mapping[str, Any], spec: Document) -> Document:
    owner = {
        "apiVersion": service["apiVersion"],
        "kind": service["kind"],
        "name": service["metadata"]["name"],
        "uid": service["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }
    metadata = {
        "name": f"{service['metadata']['name']}-predictor",
        "namespace": service["metadata"]["namespace"],
        "labels": dict(pod["labels"]),
        "annotations": dict(pod["annotations"]),
        "ownerReferences": [owner],
    }
    return {"apiVersion": KINDS[kind], "kind": kind, "metadata": metadata, "spec": spec}


def _deployment(service: Mapping[str, Any], pod: Mapping[str, Any], progress_deadline: int) -> Document:
    predictor = service["spec"]["predictor"]
    rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}}
    spec = {
        "selector": {"matchLabels": _selector(service)},
        "strategy": predictor.get("deploymentStrategy") or rolling,
        "progressDeadlineSeconds": progress_deadline,
        "revisionHistoryLimit": 10,
        "template": {
            "metadata": {"labels": dict(pod["labels"]), "annotations": dict(pod["annotations"])},
            "spec": _pod_spec(pod),
        },
    }
    # Else it starts with one, and an autoscaler may change that.
    if _scaler(service) == "none":
        spec["replicas"] = predictor.get("minReplicas", 1)
    return _child(service, "Deployment", pod, spec)


def _pod_spec(pod: Mapping[str, Any]) -> Document:
    spec = {
        key: value for key, value in pod.items() if key not in ("labels", "annotations") and value not in ([], None)
    }
    others = [each for each in spec.pop("initContainers", ()) if each["name"] != _INITIALIZER]
    spec |= {"initContainers": others} if others else {}
    spec["containers"] = [{"imagePullPolicy": "IfNotPresent", **each} for each in spec["containers"]]
    return spec


def _selector(service: Mapping[str, Any]) -> dict[str, str]:
    return {"app": f"isvc.{service['metadata']['name']}-predictor"}


def _service(service: Mapping[str, Any], pod: Mapping[str, Any]) -> Document:
    """The first container port as 80, the others under their own numbers."""
    found = [port for each in pod["containers"] for port in each.get("ports") or ()]
    name = f"{service['metadata']['name']}-predictor"
    ports = [
        {
            "name": port.get("name") or (name if index == 0 else f"{name}-{index}"),
            "port": 80 if index == 0 else port["containerPort"],
            "targetPort": port["containerPort"],
            "protocol": port.get("protocol", "TCP"),
        }
        for index, port in enumerate(found or [{"containerPort": 8080}])
    ]
    return _child(service, "Service", pod, {"selector": _selector(service), "ports": ports})


def _autoscaler(service: Mapping[str, Any], pod: Mapping[str, Any]) -> Document:
    predictor = service["spec"]["predictor"]
    least = max(1, predictor.get("minReplicas", 1))
    name = f"{service['metadata']['name']}-predictor"
    target = {"type": "Utilization", "averageUtilization": 80}
    spec = {
        "minReplicas": least,
        "maxReplicas": max(least, predictor.get("maxReplicas", 0)),
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
        "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}],
    }
    return _child(service, "HorizontalPodAutoscaler", pod, spec)
