"""What a host can still give: GPUs, memory, CPU and ports, counted while a plan is made. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from reconciler.model import Capacity, Lease, Reason, Replica, Resources, ServiceId

GIB = 1 << 30


def impossible(need: Resources, capacity: Capacity) -> tuple[Reason, ...]:
    """Why this host could not run one such replica even if it were empty."""
    reasons = []
    if need.gpus > len(capacity.gpus):
        reasons.append(
            Reason("InsufficientGPU", f"needs {need.gpus} nvidia.com/gpu, this host has {len(capacity.gpus)}")
        )
    for name, amount in need.other:
        reasons.append(Reason("InsufficientAccelerator", f"needs {amount} {name}, this host has 0"))
    if need.memory_bytes > capacity.memory_bytes:
        reasons.append(
            Reason(
                "InsufficientMemory", f"needs {_gib(need.memory_bytes)}, this host has {_gib(capacity.memory_bytes)}"
            )
        )
    if need.cpu_millis > capacity.cpu_millis:
        reasons.append(
            Reason("InsufficientCPU", f"needs {need.cpu_millis}m of CPU, this host has {capacity.cpu_millis}m")
        )
    return tuple(reasons)


class Ledger:
    """What is free, less what the plan has given away so far.

    `leaving` are replicas on their way out, `outdated` those of another digest than git's: they go as soon as their
    service has a successor. What both hold is worth waiting for, before anything that serves is stopped to make room.
    """

    def __init__(
        self,
        capacity: Capacity,
        replicas: Iterable[Replica],
        leaving: Iterable[Replica] = (),
        outdated: Iterable[Replica] = (),
    ) -> None:
        self._capacity = capacity
        self._replicas = tuple(replicas)
        self._leaving = {replica.id for replica in leaving}
        self._outdated = {replica.id for replica in outdated}
        self._succeeded = {replica.service for replica in self._replicas if replica.id not in self._outdated}
        leased = {uuid for replica in self._replicas for uuid in replica.lease.gpus}
        ports = {replica.lease.port for replica in self._replicas}
        self._gpus = [gpu.uuid for gpu in capacity.gpus if gpu.uuid not in leased]
        self._ports = [port for port in capacity.ports if port not in ports]
        self._memory = capacity.memory_bytes - sum(r.spec.resources.memory_bytes for r in self._replicas)
        self._cpu = capacity.cpu_millis - sum(r.spec.resources.cpu_millis for r in self._replicas)

    def take(self, need: Resources, service: ServiceId) -> Lease | None:
        """Lease what one replica of a service needs, or None if something lacks."""
        if self.lacks(need):
            return None
        self._succeeded.add(service)
        gpus, self._gpus = tuple(self._gpus[: need.gpus]), self._gpus[need.gpus :]
        self._memory -= need.memory_bytes
        self._cpu -= need.cpu_millis
        return Lease(self._ports.pop(0), gpus)

    def fits(self, need: Resources) -> bool:
        """Would one more replica fit right now?"""
        return not self.lacks(need)

    def fits_without(self, need: Resources, leaving: Iterable[Replica]) -> bool:
        """Would it fit once these replicas are gone?"""
        return not self._lacks(need, tuple(leaving))

    def fits_soon(self, need: Resources, service: ServiceId) -> bool:
        """Would it fit once everything that is on its way out elsewhere is gone?"""
        return self.fits_without(need, (r for r in self._replicas if r.service != service and self._goes(r)))

    def _goes(self, replica: Replica) -> bool:
        return replica.id in self._leaving or (replica.id in self._outdated and replica.service in self._succeeded)

    def lacks(self, need: Resources) -> tuple[Reason, ...]:
        """Everything that keeps one more replica from fitting right now, naming the holders of GPUs."""
        return self._lacks(need, ())

    def _lacks(self, need: Resources, leaving: tuple[Replica, ...]) -> tuple[Reason, ...]:
        reasons = []
        free = len(self._gpus) + sum(len(r.lease.gpus) for r in leaving)
        if need.gpus > free:
            reasons.append(self._gpu_reason(need.gpus, free))
        memory = self._memory + sum(r.spec.resources.memory_bytes for r in leaving)
        if need.memory_bytes > memory:
            text = (
                f"needs {_gib(need.memory_bytes)} of memory, {_gib(memory)} of {_gib(self._capacity.memory_bytes)} free"
            )
            reasons.append(Reason("InsufficientMemory", text))
        cpu = self._cpu + sum(r.spec.resources.cpu_millis for r in leaving)
        if need.cpu_millis > cpu:
            text = f"needs {need.cpu_millis}m of CPU, {cpu}m of {self._capacity.cpu_millis}m free"
            reasons.append(Reason("InsufficientCPU", text))
        if not self._ports and not leaving:
            reasons.append(Reason("NoFreePort", "no port of targets[].ports is free"))
        return tuple(reasons)

    def _gpu_reason(self, need: int, free: int) -> Reason:
        holders = sorted({str(r.service) for r in self._replicas if r.lease.gpus})
        held = f"; held by {', '.join(holders)}" if holders else ""
        total = len(self._capacity.gpus)
        return Reason("InsufficientGPU", f"needs {need} nvidia.com/gpu, {free} of {total} free{held}")


def _gib(amount: int) -> str:
    return f"{max(amount, 0) / GIB:.1f} GiB"
