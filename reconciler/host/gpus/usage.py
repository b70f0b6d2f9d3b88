"""What is free of a host's GPUs, and which processes use the rest: read only while a replica may have to start."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

from reconciler.errors import Retryable
from reconciler.fault_isolation import Faults
from reconciler.host.gpus.devices import GpuMemory, Gpus
from reconciler.host.inventory import ReplicaRecord
from reconciler.host.supervisor import ProcessState
from reconciler.model import Capacity, Desired, ForeignProcess, GpuUse, ReplicaId, ServiceId
from reconciler.system import procfs


def is_asked_for(
    desired: Iterable[Desired],
    records: Iterable[ReplicaRecord],
    states: Mapping[ReplicaId, ProcessState],
    faults: Faults,
) -> bool:
    """Has a service too few replicas that use GPUs? Otherwise it is not needed, and drivers answer slowly.

    A service that makes us raise is noted in `faults`; for it alone nothing is asked.
    """
    serving = Counter((record.id.service, record.digest) for record in records if _serves(record, states[record.id]))
    return any(_lacks(one, serving, faults) for one in desired)


def _lacks(one: Desired, serving: Mapping[tuple[ServiceId, str], int], faults: Faults) -> bool:
    try:
        needs_gpus = one.spec is not None and one.spec.resources.gpus > 0
        return needs_gpus and serving.get((one.id, one.digest), 0) < one.replicas
    except Exception as error:
        faults.note(one.id, error, one.origin)
        return False


def _serves(record: ReplicaRecord, state: ProcessState) -> bool:
    is_leaving = record.draining_at is not None or record.stopping_at is not None
    return state.alive and record.ready_at is not None and not is_leaving


def look(gpus: Gpus, is_ours: Callable[[int], bool], faults: Faults) -> Mapping[str, GpuUse]:
    """By UUID; those that no driver knows are left out. Where it fails, services without GPUs do not wait.

    Raises Retryable when the GPUs cannot even be listed.
    """
    found = {}
    for gpu in gpus.list():
        try:
            use = _use(gpu.uuid, gpus, is_ours)
        except Retryable as error:
            use = GpuUse(0, 0, fault=str(error))
        except Exception as error:
            use = GpuUse(0, 0, fault=str(faults.note_other(f"looking at GPU {gpu.uuid}", error)))
        if use is not None:
            found[gpu.uuid] = use
    return found


def _use(uuid: str, gpus: Gpus, is_ours: Callable[[int], bool]) -> GpuUse | None:
    memory = gpus.memory(uuid)
    if memory is None:
        return None
    return GpuUse(memory.usable_bytes, memory.free_bytes, tuple(_strangers(memory, is_ours)), memory.fault)


def _strangers(memory: GpuMemory, is_ours: Callable[[int], bool]) -> Iterator[ForeignProcess]:
    for one in memory.holders:
        if not is_ours(one.pid):
            yield ForeignProcess(one.pid, procfs.name_of(one.pid), one.memory_bytes)


def without(capacity: Capacity, held: Mapping[str, str]) -> Capacity:
    """The same host, where nothing can be started on GPUs that others hold; `held`: by whom, by UUID."""
    mine = {gpu.uuid for gpu in capacity.gpus}
    faults = {uuid: GpuUse(0, 0, fault=whose) for uuid, whose in held.items() if uuid in mine}
    return replace(capacity, gpu_use={**capacity.gpu_use, **faults}) if faults else capacity
