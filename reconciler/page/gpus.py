"""The GPUs of all targets: who leases which, what of their memory is free, and processes that are not ours. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from reconciler.model import GPU, ReplicaId
from reconciler.page.targets import target_state
from reconciler.report.addresses import service_address
from reconciler.report.convergence import full_name
from reconciler.report.status import Document
from reconciler.report.text import short_device

SCHEMA = "reconciler.page.gpus/v1"

GpuUses = Mapping[str, Mapping[str, Document]]
"""What is free now of each target's GPUs, by UUID: `use` of the status document."""


def gpus_document(status: Document, gpu_use: GpuUses) -> Document:
    """What the page shows."""
    return {"schema": SCHEMA, "targets": [_target(each, gpu_use.get(each["name"], {})) for each in status["targets"]]}


def _target(target: Document, gpu_use: Mapping[str, Document]) -> Document:
    return {**target_state(target), **gpus_of(target, gpu_use), "nodes": list(_nodes(target))}


def gpus_of(target: Document, gpu_use: Mapping[str, Document]) -> Document:
    """Its GPUs, each with its MIG parts below it; `total` is None where it is not known."""
    gpus = target["gpus"]
    parts: dict[str, list[Document]] = {}
    whole: list[Document] = []
    for device in (_with_use(one, gpu_use) for one in gpus["devices"]):
        siblings = parts.setdefault(device["parent"], []) if device["parent"] else whole
        siblings.append(device)
    devices = [_device(one, target["name"], parts.pop(one["uuid"], ())) for one in whole]
    # A GPU in MIG mode is no device of its own.
    devices += [_parent(uuid, target["name"], found) for uuid, found in parts.items()]
    return {
        "total": gpus["total"],
        "leased": gpus["leased"],
        "devices": devices,
    }


def _with_use(device: Document, gpu_use: Mapping[str, Document]) -> Document:
    """What was read now is newer than what a pass saw; but only a pass knows what it may not use."""
    if device["use"] and device["use"]["fault"]:
        return device
    return device | {"use": gpu_use.get(device["uuid"], device["use"])}


def _parent(uuid: str, target: str, parts: Iterable[Document]) -> Document:
    """A GPU that is known by its parts alone."""
    nothing = {"uuid": uuid, "kind": "", "name": "", "profile": "", "memoryBytes": 0, "leases": [], "use": None}
    return _device(nothing, target, parts)


def _device(device: Document, target: str, parts: Iterable[Document]) -> Document:
    leases = [_lease(one, target) for one in device["leases"]]
    return {
        "uuid": device["uuid"],
        "shortName": short_device(device["uuid"]),
        "name": device["name"],
        "kind": "" if device["kind"] == GPU else device["kind"].rpartition("/")[2],
        "profile": device["profile"],
        "memoryBytes": device["memoryBytes"] or None,
        "leased": round(sum(one["fraction"] for one in leases), 3),
        "leases": leases,
        **_use(device["use"]),
        "parts": [_device(one, target, ()) for one in parts],
    }


def _lease(lease: Document, target: str) -> Document:
    service = ReplicaId.parse(lease["replica"]).service
    return {
        "replica": lease["replica"],
        "service": str(service),
        "address": service_address(target, service.namespace, service.name),
        "fraction": lease["fraction"],
    }


def _use(use: Document | None) -> Document:
    """Bytes are None where they were not read. `strangersBytes` is what the driver says of processes not ours."""
    if use is None or use["fault"]:
        fault = use["fault"] if use else ""
        return {"usableBytes": None, "freeBytes": None, "strangers": [], "strangersBytes": None, "fault": fault}
    known = [one["memoryBytes"] for one in use["strangers"] if one["memoryBytes"] is not None]
    return {
        "usableBytes": use["usableBytes"],
        "freeBytes": use["freeBytes"],
        "strangers": use["strangers"],
        "strangersBytes": sum(known) if len(known) == len(use["strangers"]) else None,
        "fault": "",
    }


def _nodes(target: Document) -> Iterator[Document]:
    """The nodes of a cluster that have GPUs, each with our pods that hold some of them."""
    held: dict[str, list[Document]] = {one["name"]: [] for one in target["gpus"]["nodes"]}
    for service in target["services"] if held else ():
        for pod in service["replicas"]:
            if pod["gpuCount"] and pod["node"] in held:
                held[pod["node"]].append(_pod(pod, service, target["name"]))
    for node in target["gpus"]["nodes"]:
        pods = held[node["name"]]
        yield node | {"ours": sum(one["gpus"] for one in pods), "pods": pods}


def _pod(pod: Mapping[str, object], service: Document, target: str) -> Document:
    return {
        "replica": pod["id"],
        "service": full_name(service),
        "address": service_address(target, service["namespace"], service["name"]),
        "gpus": pod["gpuCount"],
    }
