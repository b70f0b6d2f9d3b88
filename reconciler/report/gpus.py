"""A host's GPUs and MIG devices, and their leases, as the status document shows them. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from reconciler.host.capacity import WHOLE
from reconciler.model import Observed, Replica

Document = dict[str, Any]


def gpus_document(observed: Observed | None) -> Document:
    """`leased` counts devices of which anything is leased, whole or in part."""
    if observed is None:
        return {"total": None, "leased": None, "devices": []}
    holders: dict[str, list[Replica]] = {}
    for replica in observed.replicas:
        for uuid in replica.lease.gpus:
            holders.setdefault(uuid, []).append(replica)
    devices = [
        {
            "uuid": gpu.uuid,
            "kind": gpu.kind,
            "name": gpu.name,
            "memoryBytes": gpu.memory_bytes,
            "parent": gpu.parent,
            "leases": [{"replica": str(one.id), "fraction": gpu_fraction(one)} for one in holders.get(gpu.uuid, ())],
        }
        for gpu in observed.capacity.gpus
    ]
    return {"total": len(devices), "leased": len(holders), "devices": devices}


def gpu_fraction(replica: Replica) -> float | None:
    """How much of each of its GPUs a replica has; None where it has none."""
    if not replica.lease.gpus:
        return None
    share = replica.spec.resources.gpu_share_millis
    return share / WHOLE if share else 1


def gpus_held(replicas: Iterable[Replica]) -> float:
    """GPUs that these hold together; a share counts as the part that it is."""
    held = sum(len(one.lease.gpus) * (one.spec.resources.gpu_share_millis or WHOLE) for one in replicas)
    return held / WHOLE if held % WHOLE else held // WHOLE
