"""Strategic merge of a runtime's container and pod spec with those of a service, as Kubernetes merges lists.

The documents have been read by `schema`: what is empty is absent, so a patch never erases. Nothing given is changed;
parts that one side alone has are shared with the result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Document = Mapping[str, Any]

_NO_KEYS: Mapping[str, str] = {}


class MergeError(Exception):
    """Kubernetes cannot merge the lists; the message is its own."""


# Lists that merge by a key; every other list is replaced whole.
_CONTAINER_KEYS = {
    "env": "name",
    "ports": "containerPort",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
}
_POD_KEYS = {
    "volumes": "name",
    "imagePullSecrets": "name",
    "resourceClaims": "name",
}
# All that a runtime gives to the pod except its containers; hostIPC is dropped.
_FROM_RUNTIME = (
    "nodeSelector",
    "affinity",
    "tolerations",
    "volumes",
    "imagePullSecrets",
    "schedulerName",
    "resourceClaims",
)


def merge_containers(runtime: Document, service: Document) -> dict[str, Any]:
    """The runtime's container with the service's laid over it; arguments are appended, not replaced."""
    merged = patch_container(runtime, service)
    args = [*(runtime.get("args") or ()), *(service.get("args") or ())]
    if args:
        merged["args"] = args
    return merged


def patch_container(base: Document, overlay: Document) -> dict[str, Any]:
    """Strategic merge; a variable of the overlay wins with its value or its source, and clears the other."""
    merged = _merge(base, overlay, _CONTAINER_KEYS)
    if not merged.get("name") and "name" in base:
        merged["name"] = base["name"]
    if "env" in merged and "env" in overlay:
        merged["env"] = _one_source_each(merged["env"], overlay["env"])
    return merged


def merge_pod_specs(runtime: Document, predictor: Document) -> dict[str, Any]:
    """The pod spec without its containers: what the runtime may give, with the predictor's fields over it.

    Raises MergeError.
    """
    base = {key: runtime[key] for key in _FROM_RUNTIME if key in runtime}
    both = [*base.get("imagePullSecrets", ()), *predictor.get("imagePullSecrets", ())]
    if "imagePullSecrets" in base and "imagePullSecrets" in predictor and {} in both:
        raise MergeError("map: map[] does not contain declared merge key: name")
    return _merge(base, {key: predictor[key] for key in predictor if key in POD_FIELDS}, _POD_KEYS)


def _merge(base: Document, overlay: Document, keys: Mapping[str, str] = _NO_KEYS) -> dict[str, Any]:
    merged = dict(base)
    for name, value in overlay.items():
        old = base.get(name)
        if type(value) is dict and type(old) is dict:
            merged[name] = _merge(old, value)
        elif name in keys and isinstance(value, list) and old:
            merged[name] = _merge_lists(old, value, keys[name])
        else:
            merged[name] = value
    return merged


def _merge_lists(base: Sequence[Document], patch: Sequence[Document], key: str) -> list[Document]:
    """Items of the patch in its order; items of the base alone stand before the first shared one that followed them."""
    position: dict[Any, int] = {}
    for index, item in enumerate(base):
        position.setdefault(item.get(key), index)
    patched: dict[Any, Document] = {}
    for item in patch:
        name = item.get(key)
        old = patched.get(name) or (base[position[name]] if name in position else None)
        patched[name] = _merge(old, item) if old else item
    left, right = [], list(patched.values())
    for index, item in enumerate(base):
        if item.get(key) not in patched:
            left.append(item)
        elif position[item.get(key)] != index:
            right.append(item)
    return _woven(left, right, key, position)


def _woven(left: list[Document], right: list[Document], key: str, position: Mapping[Any, int]) -> list[Document]:
    result: list[Document] = []
    i = j = 0
    while i < len(left) and j < len(right):
        here, there = position.get(left[i].get(key)), position.get(right[j].get(key))
        if here is not None and there is not None and here < there:
            result.append(left[i])
            i += 1
        else:
            result.append(right[j])
            j += 1
    return result + left[i:] + right[j:]


def _one_source_each(merged: Sequence[Document], overlay: Sequence[Document]) -> list[Document]:
    by_name = {item.get("name"): item for item in overlay}
    result = []
    for item in merged:
        mine = by_name.get(item.get("name"))
        if mine is not None and item.get("value") and "valueFrom" in item:
            loser = "value" if "valueFrom" in mine else "valueFrom" if mine.get("value") else ""
            item = {key: value for key, value in item.items() if key != loser}
        result.append(item)
    return result


# Fields of a PodSpec that a predictor may set.
POD_FIELDS = frozenset(
    [
        "activeDeadlineSeconds",
        "affinity",
        "automountServiceAccountToken",
        "dnsConfig",
        "dnsPolicy",
        "enableServiceLinks",
        "ephemeralContainers",
        "hostAliases",
        "hostIPC",
        "hostNetwork",
        "hostPID",
        "hostUsers",
        "hostname",
        "hostnameOverride",
        "imagePullSecrets",
        "initContainers",
        "nodeName",
        "nodeSelector",
        "os",
        "overhead",
        "preemptionPolicy",
        "priority",
        "priorityClassName",
        "readinessGates",
        "resourceClaims",
        "resources",
        "restartPolicy",
        "runtimeClassName",
        "schedulerName",
        "schedulingGates",
        "securityContext",
        "serviceAccount",
        "serviceAccountName",
        "setHostnameAsFQDN",
        "shareProcessNamespace",
        "subdomain",
        "terminationGracePeriodSeconds",
        "tolerations",
        "topologySpreadConstraints",
        "volumes",
    ]
)
