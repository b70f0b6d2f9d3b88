"""What is free of a host's GPUs, and who has the rest: asked only while a replica may have to start."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

from reconciler import procfs
from reconciler.errors import Retryable
from reconciler.inventory import ReplicaRecord
from reconciler.model import Capacity, Desired, GpuUse, ReplicaId, Stranger
from reconciler.targets.gpus import Gpus, Memory
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
    """By UUID; those that no driver knows are left out. Where it fails, nobody waits who needs no GPU.

    Raises Retryable when the GPUs cannot even be listed.
    """
    found = {}
    for gpu in gpus.list():
        try:
            memory = gpus.memory(gpu.uuid)
        except Retryable as error:
            memory = Memory(0, 0, fault=str(error))
        if memory is not None:
            found[gpu.uuid] = GpuUse(
                memory.usable_bytes, memory.free_bytes, tuple(_strangers(memory, is_ours)), memory.fault
            )
    return found


def _strangers(memory: Memory, is_ours: Callable[[int], bool]) -> Iterator[Stranger]:
    for one in memory.holders:
        if not is_ours(one.pid):
            yield Stranger(one.pid, procfs.name_of(one.pid), one.memory_bytes)


def without(capacity: Capacity, held: Mapping[str, str]) -> Capacity:
    """The same host, where nothing can be started on GPUs that others hold; `held` says whose they are, by UUID."""
    mine = {gpu.uuid for gpu in capacity.gpus}
    faults = {uuid: GpuUse(0, 0, fault=whose) for uuid, whose in held.items() if uuid in mine}
    return replace(capacity, gpu_use={**capacity.gpu_use, **faults}) if faults else capacity
