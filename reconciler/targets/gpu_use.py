"""What is free of a host's GPUs, and who has the rest: asked only while a replica may have to start."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from reconciler import procfs
from reconciler.inventory import ReplicaRecord
from reconciler.model import Desired, GpuUse, ReplicaId, Stranger
from reconciler.targets.gpus import Gpus
from reconciler.targets.supervisor import ProcessState


def is_asked_for(
    wanted: Iterable[Desired], records: Iterable[ReplicaRecord], states: Mapping[ReplicaId, ProcessState]
) -> bool:
    """Does a service lack replicas that use GPUs? Else nobody needs to know, and drivers answer slowly."""
    serving = Counter((record.id.service, record.digest) for record in records if _serves(record, states[record.id]))
    return any(
        one.spec is not None and one.spec.resources.gpus > 0 and serving[(one.id, one.digest)] < one.replicas
        for one in wanted
    )


def _serves(record: ReplicaRecord, state: ProcessState) -> bool:
    is_leaving = record.draining_at is not None or record.stopping_at is not None
    return state.alive and record.ready_at is not None and not is_leaving


def look(gpus: Gpus, is_ours: Callable[[int], bool]) -> Mapping[str, GpuUse]:
    """By UUID; those that no driver knows are left out. Raises Retryable when the driver fails."""
    found = {}
    for gpu in gpus.list():
        memory = gpus.memory(gpu.uuid)
        if memory is not None:
            strangers = tuple(
                Stranger(one.pid, procfs.name_of(one.pid), one.memory_bytes)
                for one in memory.holders
                if not is_ours(one.pid)
            )
            found[gpu.uuid] = GpuUse(memory.usable_bytes, memory.free_bytes, strangers, memory.fault)
    return found
