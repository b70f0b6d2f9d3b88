"""What a host can still give: GPUs, memory, CPU and ports, counted while a plan is made. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

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


NOTHING = Resources()


def add(*amounts: Resources) -> Resources:
    """All of them together."""
    return Resources(
        sum(a.gpus for a in amounts), sum(a.cpu_millis for a in amounts), sum(a.memory_bytes for a in amounts)
    )


def shortfall(need: Resources, have: Resources) -> Resources:
    """What is needed beyond what there is."""
    return Resources(
        max(0, need.gpus - have.gpus),
        max(0, need.cpu_millis - have.cpu_millis),
        max(0, need.memory_bytes - have.memory_bytes),
    )


class Ledger:
    """What is free, less what the plan has given away so far, and less what is kept for somebody.

    `leaving` are replicas on their way out, `outdated` those of another digest than git's: they go once their service
    has a successor and with it more than the number in `wanted`. What both hold is worth waiting for, before anything
    that serves is stopped to make room. A claim keeps room for one service: nobody else may take it, however early in
    the order.
    """

    def __init__(
        self,
        capacity: Capacity,
        replicas: Iterable[Replica],
        leaving: Iterable[Replica] = (),
        outdated: Iterable[Replica] = (),
        wanted: Mapping[ServiceId, int] | None = None,
    ) -> None:
        self._capacity = capacity
        self._replicas = tuple(replicas)
        self._leaving = {replica.id for replica in leaving}
        self._outdated = {replica.id for replica in outdated}
        self._wanted = wanted or {}
        self._staying = Counter(replica.service for replica in self._replicas if replica.id not in self._leaving)
        self._succeeded = {replica.service for replica in self._replicas if replica.id not in self._outdated}
        self._known = {gpu.uuid for gpu in capacity.gpus}
        leased = {uuid for replica in self._replicas for uuid in replica.lease.gpus}
        ports = {replica.lease.port for replica in self._replicas}
        self._gpus = [gpu.uuid for gpu in capacity.gpus if gpu.uuid not in leased]
        self._ports = [port for port in capacity.ports if port not in ports]
        self._memory = capacity.memory_bytes - sum(r.spec.resources.memory_bytes for r in self._replicas)
        self._cpu = capacity.cpu_millis - sum(r.spec.resources.cpu_millis for r in self._replicas)
        self._claims: dict[ServiceId, Resources] = {}

    def take(self, need: Resources, service: ServiceId) -> Lease | None:
        """Lease what one replica of a service needs, or None if something lacks."""
        if self.lacks(need, service):
            return None
        self._staying[service] += 1
        self._succeeded.add(service)
        if service in self._claims:
            self._claims[service] = shortfall(self._claims[service], need)
        gpus, self._gpus = tuple(self._gpus[: need.gpus]), self._gpus[need.gpus :]
        self._memory -= need.memory_bytes
        self._cpu -= need.cpu_millis
        return Lease(self._ports.pop(0), gpus)

    def claim(self, need: Resources, service: ServiceId) -> None:
        """Keep that much free for a service, unless it has a claim to more; what is not free cannot be kept."""
        before = self._claims.get(service, NOTHING)
        more = add(before, shortfall(need, before))
        if more != before and not self._lacks(more, service, NOTHING):
            self._claims[service] = more

    def held_by(self, replicas: Iterable[Replica]) -> Resources:
        """What becomes free when these are gone. A GPU that this host does not offer any more is none."""
        held = [
            replace(r.spec.resources, gpus=sum(uuid in self._known for uuid in r.lease.gpus), other=())
            for r in replicas
        ]
        return add(*held)

    def fits(self, need: Resources, service: ServiceId) -> bool:
        """Would one more replica fit right now?"""
        return not self.lacks(need, service)

    def fits_without(self, need: Resources, service: ServiceId, leaving: Iterable[Replica]) -> bool:
        """Would it fit once these replicas are gone?"""
        leaving = tuple(leaving)
        return bool(self._ports or leaving) and not self._lacks(need, service, self.held_by(leaving))

    def fits_soon(self, need: Resources, service: ServiceId) -> bool:
        """Would it fit once everything that is on its way out elsewhere is gone?"""
        return self.fits_without(need, service, (r for r in self._replicas if r.service != service and self._goes(r)))

    def _goes(self, replica: Replica) -> bool:
        if replica.id in self._leaving:
            return True
        is_spare = self._staying[replica.service] > self._wanted.get(replica.service, 0)
        return replica.id in self._outdated and replica.service in self._succeeded and is_spare

    def lacks(self, need: Resources, service: ServiceId) -> tuple[Reason, ...]:
        """Everything that keeps one more replica from fitting right now, naming the holders of GPUs."""
        reasons = self._lacks(need, service, NOTHING)
        return reasons if self._ports else (*reasons, Reason("NoFreePort", "no port of targets[].ports is free"))

    def _lacks(self, need: Resources, service: ServiceId, more: Resources) -> tuple[Reason, ...]:
        kept = add(*(claim for key, claim in self._claims.items() if key != service))
        reasons = []
        free = len(self._gpus) + more.gpus - kept.gpus
        if need.gpus > max(free, 0):
            reasons.append(self._gpu_reason(need.gpus, max(free, 0), service))
        memory = self._memory + more.memory_bytes - kept.memory_bytes
        if need.memory_bytes > max(memory, 0):
            text = (
                f"needs {_gib(need.memory_bytes)} of memory, {_gib(memory)} of {_gib(self._capacity.memory_bytes)} free"
            )
            reasons.append(Reason("InsufficientMemory", text))
        cpu = self._cpu + more.cpu_millis - kept.cpu_millis
        if need.cpu_millis > max(cpu, 0):
            text = f"needs {need.cpu_millis}m of CPU, {max(cpu, 0)}m of {self._capacity.cpu_millis}m free"
            reasons.append(Reason("InsufficientCPU", text))
        return tuple(reasons)

    def _gpu_reason(self, need: int, free: int, service: ServiceId) -> Reason:
        holders = {str(r.service) for r in self._replicas if r.lease.gpus}
        holders |= {str(key) for key, claim in self._claims.items() if claim.gpus and key != service}
        held = f"; held by {', '.join(sorted(holders))}" if holders else ""
        total = len(self._capacity.gpus)
        return Reason("InsufficientGPU", f"needs {need} nvidia.com/gpu, {free} of {total} free{held}")


def _gib(amount: int) -> str:
    return f"{max(amount, 0) / GIB:.1f} GiB"
