"""What a host can still give: GPUs, memory, CPU and ports, counted while a plan is made. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce

from reconciler.host.capacity.gpu_ledger import GpuLedger, Want, wants_of
from reconciler.model import (
    GPU,
    GPU_FRACTION,
    MIG,
    Capacity,
    Lease,
    Reason,
    ReasonCode,
    Replica,
    Resources,
    ServiceId,
    host_reason,
)

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Need:
    """What one replica takes, and the part of each of its GPUs' memory that must be free when it starts."""

    resources: Resources
    gpu_memory: float = 0.0

    @property
    def wants(self) -> tuple[Want, ...]:
        return wants_of(self.resources, memory=self.gpu_memory)


def impossible(need: Resources, capacity: Capacity) -> tuple[Reason, ...]:
    """Why this host could not run one such replica even if it were empty."""
    reasons = [*_missing_devices(need, capacity)]
    if need.memory_bytes > capacity.memory_bytes:
        reasons.append(
            host_reason(
                ReasonCode.INSUFFICIENT_MEMORY,
                f"needs {_gib(need.memory_bytes)}, this host has {_gib(capacity.memory_bytes)}",
            )
        )
    if need.cpu_millis > capacity.cpu_millis:
        reasons.append(
            host_reason(
                ReasonCode.INSUFFICIENT_CPU,
                f"needs {need.cpu_millis}m of CPU, this host has {capacity.cpu_millis}m",
            )
        )
    return tuple(reasons)


def _missing_devices(need: Resources, capacity: Capacity) -> Iterator[Reason]:
    there = Counter(gpu.kind for gpu in capacity.gpus)
    for want in wants_of(need):
        if want.count > there[want.kind]:
            code = ReasonCode.INSUFFICIENT_GPU if want.kind == GPU else ReasonCode.INSUFFICIENT_ACCELERATOR
            yield host_reason(
                code, f"needs {want.count} {want.kind}, this host has {_found(want, there)}{_instead(want)}"
            )


def _found(want: Want, there: Counter[str]) -> str:
    """Where GPUs are split, the parts that there are help to write the right one."""
    parts = [f"{count} {kind}" for kind, count in sorted(there.items()) if kind != GPU]
    return f"{there[want.kind]}" + (f" (MIG: {', '.join(parts)})" if parts else "")


def _instead(want: Want) -> str:
    """What to ask for, where a host has no such devices at all."""
    if want.kind == GPU or want.kind.startswith(MIG):
        return ""
    if want.kind.startswith(GPU):
        return f'; to share a GPU, request 1 {GPU} and annotate {GPU_FRACTION}: "0.5"'
    return f"; a host leases {GPU} and {MIG}… only"


def too_few_gpus(needed: int, resources: Resources) -> str:
    """What is wrong with arguments that need so many GPUs; empty where they are leased, or the host's CPU serves."""
    asked = resources.gpu_devices
    if not asked or needed <= asked:
        return ""
    needs = f"the arguments need {needed} GPUs (tensor, pipeline and data parallel)"
    if mig := resources.mig:
        return f"{needs}, but its one {mig[0][0]} works alone; lower the parallel sizes"
    return f"{needs} but resources request {asked} {GPU}; raise the limit or lower the parallel sizes"


@dataclass(frozen=True, slots=True)
class _Amount:
    """What may be divided at will."""

    cpu_millis: int = 0
    memory_bytes: int = 0

    def plus(self, other: _Amount) -> _Amount:
        return _Amount(self.cpu_millis + other.cpu_millis, self.memory_bytes + other.memory_bytes)

    def beyond(self, other: _Amount) -> _Amount:
        """What is more here than there."""
        return _Amount(max(0, self.cpu_millis - other.cpu_millis), max(0, self.memory_bytes - other.memory_bytes))


def _amount(of: Resources, replicas: int = 1) -> _Amount:
    return _Amount(of.cpu_millis * replicas, of.memory_bytes * replicas)


def _amount_of(replicas: Iterable[Replica]) -> _Amount:
    return reduce(_Amount.plus, (_amount(replica.spec.resources) for replica in replicas), _Amount())


class Ledger:
    """What is free, less what the plan has given away so far, and less what is reserved.

    `leaving` are replicas on their way out, `outdated` those of another digest than git's: they go once their service
    has a successor and with it more than the number in `wanted`. What both hold is worth waiting for, before anything
    that serves is stopped to make room. A claim reserves room for one service: no other may take it, however early in
    the order. `busy` are replicas that start or end, `stuck` those of them that do not come to it.
    """

    def __init__(
        self,
        capacity: Capacity,
        replicas: Iterable[Replica],
        leaving: Iterable[Replica] = (),
        outdated: Iterable[Replica] = (),
        wanted: Mapping[ServiceId, int] | None = None,
        busy: Iterable[Replica] = (),
        stuck: Iterable[Replica] = (),
    ) -> None:
        self._capacity = capacity
        self._replicas = tuple(replicas)
        self._leaving = {replica.id for replica in leaving}
        self._outdated = {replica.id for replica in outdated}
        self._wanted = wanted or {}
        self._staying = Counter(replica.service for replica in self._replicas if replica.id not in self._leaving)
        self._succeeded = {replica.service for replica in self._replicas if replica.id not in self._outdated}
        self._devices = GpuLedger(capacity.gpus, self._replicas, busy, stuck, capacity.gpu_use)
        ports = {replica.lease.port for replica in self._replicas}
        self._ports = [port for port in capacity.ports if port not in ports]
        self._memory = capacity.memory_bytes - sum(r.spec.resources.memory_bytes for r in self._replicas)
        self._cpu = capacity.cpu_millis - sum(r.spec.resources.cpu_millis for r in self._replicas)
        self._claims: dict[ServiceId, _Amount] = {}

    def take(self, need: Need, service: ServiceId) -> Lease | None:
        """Lease what one replica of a service needs, or None if something is missing."""
        if self.lacks(need, service):
            return None
        self._staying[service] += 1
        self._succeeded.add(service)
        if service in self._claims:
            self._claims[service] = self._claims[service].beyond(_amount(need.resources))
        self._memory -= need.resources.memory_bytes
        self._cpu -= need.resources.cpu_millis
        return Lease(self._ports.pop(0), self._devices.take(need.wants, service))

    def claim(self, need: Resources, replicas: int, service: ServiceId, beside: Iterable[Replica]) -> None:
        """Reserve what so many replicas need beyond what those in `beside` hold, which belong to the same service.

        What is kept already counts. What is not free cannot be kept: then nothing more is.
        """
        beside = tuple(beside)
        wants, held = wants_of(need, replicas), self._devices.held(beside)
        before = self._claims.get(service, _Amount())
        more = before.plus(_amount(need, replicas).beyond(_amount_of(beside)).beyond(before))
        if more == before and not wants:
            return
        if not any(self._lacks_amount(more, service, _Amount())) and self._devices.fits(wants, service, held):
            self._claims[service] = more
            self._devices.keep(wants, service, held)

    def fits(self, need: Need, service: ServiceId) -> bool:
        """Would one more replica fit right now?"""
        return not self.lacks(need, service)

    def fits_without(self, need: Need, service: ServiceId, leaving: Iterable[Replica]) -> bool:
        """Would it fit once these replicas are gone?"""
        return self.fit_without((need,), service, leaving)

    def fit_without(self, needs: Iterable[Need], service: ServiceId, leaving: Iterable[Replica]) -> bool:
        """Would all of them fit together?"""
        needs, leaving = tuple(needs), tuple(leaving)
        amount = reduce(_Amount.plus, (_amount(need.resources) for need in needs), _Amount())
        wants = [want for need in needs for want in need.wants]
        return (
            len(self._ports) + len(leaving) >= max(1, len(needs))
            and self._devices.fits(wants, service, self._devices.held(leaving))
            and not any(self._lacks_amount(amount, service, _amount_of(leaving)))
        )

    def fits_soon(self, need: Need, service: ServiceId) -> bool:
        """Would it fit once all stopping replicas elsewhere are gone, and all starting ones have started?"""
        return self.fits_without(need, service, (r for r in self._replicas if r.service != service and self._goes(r)))

    def _goes(self, replica: Replica) -> bool:
        if replica.id in self._leaving:
            return True
        is_spare = self._staying[replica.service] > self._wanted.get(replica.service, 0)
        return replica.id in self._outdated and replica.service in self._succeeded and is_spare

    def crowded_without(self, need: Need, service: ServiceId, leaving: Iterable[Replica]) -> tuple[Reason, ...]:
        """Why its GPUs would have too little memory even without these replicas: others have it."""
        return tuple(self._devices.crowded(need.wants, service, self._devices.held(leaving)))

    def lacks(self, need: Need, service: ServiceId) -> tuple[Reason, ...]:
        """Everything that keeps one more replica from fitting right now, naming the holders of GPUs."""
        devices = (*self._devices.lacks(need.wants, service), *self._devices.waits(need.wants, service))
        reasons = (*devices, *self._lacks_amount(_amount(need.resources), service, _Amount()))
        return (
            reasons
            if self._ports
            else (*reasons, host_reason(ReasonCode.NO_FREE_PORT, "no port of targets[].ports is free"))
        )

    def _lacks_amount(self, need: _Amount, service: ServiceId, more: _Amount) -> Iterator[Reason]:
        kept = reduce(_Amount.plus, (claim for key, claim in self._claims.items() if key != service), _Amount())
        memory = self._memory + more.memory_bytes - kept.memory_bytes
        if need.memory_bytes > max(memory, 0):
            text = (
                f"needs {_gib(need.memory_bytes)} of memory, {_gib(memory)} of {_gib(self._capacity.memory_bytes)} free"
            )
            yield host_reason(ReasonCode.INSUFFICIENT_MEMORY, text)
        cpu = self._cpu + more.cpu_millis - kept.cpu_millis
        if need.cpu_millis > max(cpu, 0):
            text = f"needs {need.cpu_millis}m of CPU, {max(cpu, 0)}m of {self._capacity.cpu_millis}m free"
            yield host_reason(ReasonCode.INSUFFICIENT_CPU, text)


def _gib(amount: int) -> str:
    return f"{max(amount, 0) / GIB:.1f} GiB"
