"""GPUs and MIG devices while a plan is made: who holds which part of them, what is kept for whom, what is free. Pure.

A device is counted in thousandths of itself: a lease takes all of it, unless its service asks for a share. So a whole
GPU is never shared, and a GPU that is shared is never leased as a whole. MIG devices have no shares.

vLLM takes a share of all memory of its GPUs, and does not start where less than that is free. So nothing is started,
and above all nothing stopped for it, where another process has that memory.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from reconciler.model import GPU, Gpu, GpuUse, Reason, ReasonCode, Replica, Resources, ServiceId, host_reason

_GIB = 1 << 30
_NAMED = 4


def has_room(use: GpuUse | None, share: float) -> bool:
    """Is that share free now? If unknown, it prevents no start."""
    return use is None or (not use.fault and use.free_bytes >= share * use.usable_bytes)


def will_have_room(use: GpuUse | None, share: float, rest: float = 1.0) -> bool:
    """Will it be free once the stopping replicas are gone? Then leases leave a `rest`, and foreign processes take from
    it.
    """
    if use is None:
        return True
    return not use.fault and rest * use.usable_bytes - _taken_by_strangers(use) >= share * use.usable_bytes


def _taken_by_strangers(use: GpuUse) -> int:
    known = [one.memory_bytes for one in use.strangers if one.memory_bytes is not None]
    # For some processes it is unknown how much they have: all used memory may be theirs.
    return sum(known) if len(known) == len(use.strangers) else use.usable_bytes - use.free_bytes


def no_room(share: float, crowded: Iterable[tuple[str, GpuUse]]) -> Reason:
    """Why an engine cannot have its share of these GPUs, naming who has it."""
    found = [f"{uuid} {_state(use, share)}" for uuid, use in crowded]
    return host_reason(
        ReasonCode.INSUFFICIENT_GPU_MEMORY, f"needs {share:.2g} of a GPU's memory free: {'; '.join(found)}"
    )


def _state(use: GpuUse, share: float) -> str:
    if use.fault:
        return f"cannot be used: {use.fault}"
    free = f"has {_gib(use.free_bytes)} of the {_gib(int(share * use.usable_bytes))} free"
    if not use.strangers:
        return f"{free}, and no visible process holds the rest"
    holders = [_holder(one.pid, one.name, one.memory_bytes) for one in use.strangers[:_NAMED]]
    more = len(use.strangers) - len(holders)
    return f"{free}, held by {', '.join(holders)}" + (f" and {more} more" if more else "")


def _holder(pid: int, name: str, memory_bytes: int | None) -> str:
    amount = "" if memory_bytes is None else f", {_gib(memory_bytes)}"
    return f"process {pid} ({name}{amount})"


def _gib(amount: int) -> str:
    return f"{amount / _GIB:.1f} GiB"


WHOLE = 1000
Amounts = Mapping[str, int]
"""Thousandths by UUID."""


@dataclass(frozen=True, slots=True)
class Want:
    """So many devices of one kind, and of each so much. `memory` is what part must be free for an engine to start."""

    kind: str
    count: int
    millis: int = WHOLE
    memory: float = 0.0


def wants_of(need: Resources, replicas: int = 1, memory: float = 0.0) -> tuple[Want, ...]:
    """The devices that so many replicas lease."""
    whole = ((GPU, need.gpus, need.gpu_share_millis or WHOLE), *((kind, count, WHOLE) for kind, count in need.other))
    return tuple(Want(kind, count * replicas, millis, memory) for kind, count, millis in whole if count)


class GpuLedger:
    """`busy` are replicas that start or end, `stuck` those that do not come to it.

    An engine measures its GPU while it starts, and dies if others free memory meanwhile; what they take is missing for
    it. So a share is leased only where no other replica on the GPU is starting or stopping. Next to a stuck one that
    may be never.
    """

    def __init__(
        self,
        gpus: Iterable[Gpu],
        replicas: Iterable[Replica],
        busy: Iterable[Replica] = (),
        stuck: Iterable[Replica] = (),
        uses: Mapping[str, GpuUse] | None = None,
    ) -> None:
        self._uses = uses or {}
        self._kinds = {gpu.uuid: gpu.kind for gpu in gpus}
        self._replicas = tuple(replicas)
        self._kept: dict[ServiceId, dict[str, int]] = {}
        self._busy: dict[str, set[str]] = {}
        for replica in busy:
            self._disturb(replica.lease.gpus, replica.service)
        taken = self.held(self._replicas)
        closed = {uuid for replica in stuck for uuid in replica.lease.gpus}
        self._free = {uuid: WHOLE - taken.get(uuid, 0) - WHOLE * (uuid in closed) for uuid in self._kinds}

    def _disturb(self, uuids: Iterable[str], service: ServiceId) -> None:
        for uuid in uuids:
            self._busy.setdefault(uuid, set()).add(str(service))

    def held(self, replicas: Iterable[Replica]) -> Amounts:
        """What is freed by these. A device that this host does not offer any more does not count."""
        found: dict[str, int] = {}
        for replica in replicas:
            for uuid in self._kinds.keys() & replica.lease.gpus:
                found[uuid] = found.get(uuid, 0) + (replica.spec.resources.gpu_share_millis or WHOLE)
        return found

    def take(self, wants: Iterable[Want], service: ServiceId) -> tuple[str, ...]:
        """Lease the devices, which have to be free: `lacks` checks that."""
        kept = self._kept.get(service, {})
        packed = self._pack(wants, self._available(service, {}), kept) or {}
        for uuid, millis in packed.items():
            self._free[uuid] -= millis
            if uuid in kept:
                kept[uuid] = max(0, kept[uuid] - millis)
        self._disturb(packed, service)
        return tuple(uuid for uuid in self._kinds if uuid in packed)

    def fits(self, wants: Iterable[Want], service: ServiceId, more: Amounts) -> bool:
        """Would they fit, once `more` is free, even while others start or stop?"""
        return self._pack(wants, self._available(service, more), {}, more) is not None

    def keep(self, wants: Iterable[Want], service: ServiceId, held: Amounts) -> None:
        """Keep what they need beyond `held`, which the service has already; they have to fit."""
        kept = self._kept.get(service, {})
        own = {uuid: kept.get(uuid, 0) + held.get(uuid, 0) for uuid in kept.keys() | held.keys()}
        packed = self._pack(wants, self._available(service, held), own) or {}
        more = {uuid: max(kept.get(uuid, 0), millis - held.get(uuid, 0)) for uuid, millis in packed.items()}
        if any(more.values()):
            self._kept[service] = kept | more

    def lacks(self, wants: Iterable[Want], service: ServiceId) -> Iterator[Reason]:
        """What keeps them from fitting, naming the holders."""
        free = self._available(service, {})
        for want in wants:
            if self._pack((replace(want, memory=0.0),), free, {}) is None:
                code = ReasonCode.INSUFFICIENT_GPU if want.kind == GPU else ReasonCode.INSUFFICIENT_ACCELERATOR
                yield host_reason(code, self._shortage(want, free, service))
        yield from self.crowded(wants, service, {})

    def crowded(self, wants: Iterable[Want], service: ServiceId, more: Amounts) -> Iterator[Reason]:
        """Why those that would fit once `more` is free have too little memory then, naming who has it."""
        free = self._available(service, more)
        for want in wants:
            if self._pack((replace(want, memory=0.0),), free, {}) and self._pack((want,), free, {}, more) is None:
                full = [uuid for uuid, kind in self._kinds.items() if kind == want.kind and free[uuid] >= want.millis]
                full = [uuid for uuid in full if not self._has_memory(uuid, want, free[uuid], more)]
                yield no_room(want.memory, [(uuid, self._uses[uuid]) for uuid in full])

    def _has_memory(self, uuid: str, want: Want, rest: int, more: Amounts) -> bool:
        """Is its memory free, or will it be once those are gone who have `more` of it?"""
        use = self._uses.get(uuid)
        if not want.memory:
            return True
        if uuid in more:
            return will_have_room(use, want.memory, rest / WHOLE)
        return has_room(use, want.memory)

    def waits(self, wants: Iterable[Want], service: ServiceId) -> Iterator[Reason]:
        """Why there is room, but not at this moment. Another GPU is not opened for that: it stays whole."""
        packed = self._pack(wants, self._available(service, {}), self._kept.get(service, {})) or {}
        if names := sorted({name for uuid in packed for name in self._busy.get(uuid, ())}):
            text = f"waiting for {' and '.join(names)} to finish starting or stopping on this GPU"
            yield host_reason(ReasonCode.GPU_BUSY, text)

    def _available(self, service: ServiceId, more: Amounts) -> dict[str, int]:
        available = {uuid: free + more.get(uuid, 0) for uuid, free in self._free.items()}
        for key, kept in self._kept.items():
            for uuid, millis in kept.items() if key != service else ():
                available[uuid] -= millis
        return available

    def _pack(
        self, wants: Iterable[Want], free: Amounts, own: Amounts, more: Amounts | None = None
    ) -> dict[str, int] | None:
        """Which devices to take for all of them, and how much; None where they do not fit.

        First what is their service's own, then GPUs that are shared already, with no replica starting or stopping if
        possible, and of these the one on which the least stays free: whole GPUs remain for those who need them. `more`
        is what is free only later.
        """
        left, own, packed = dict(free), dict(own), dict[str, int]()

        def rank(uuid: str) -> tuple[int, bool, bool, int, int]:
            foreign = max(0, want.millis - own.get(uuid, 0))
            memory = self._uses[uuid].free_bytes if uuid in self._uses else 0
            return foreign, left[uuid] == WHOLE, uuid in self._busy, left[uuid], memory

        for want in sorted(wants, key=lambda want: -want.millis):
            for _ in range(want.count):
                fitting = [
                    uuid
                    for uuid, rest in left.items()
                    if self._kinds[uuid] == want.kind
                    and rest >= want.millis
                    and self._has_memory(uuid, want, rest, more or {})
                ]
                if not fitting:
                    return None
                best = min(fitting, key=rank)
                left[best] -= want.millis
                own[best] = max(0, own.get(best, 0) - want.millis)
                packed[best] = packed.get(best, 0) + want.millis
        return packed

    def _shortage(self, want: Want, free: Amounts, service: ServiceId) -> str:
        those = [uuid for uuid, kind in self._kinds.items() if kind == want.kind]
        whole = sum(free[uuid] >= WHOLE for uuid in those)
        if want.millis < WHOLE:
            most = max((free[uuid] for uuid in those), default=0)
            text = f"needs {fraction(want.millis)} of a {want.kind}, at most {fraction(max(most, 0))} of one is free"
        else:
            text = f"needs {want.count} {want.kind}, {whole} of {len(those)} free"
        keepers = {str(key) for key, kept in self._kept.items() if key != service and any(kept.get(u) for u in those)}
        holders = sorted({*self._holders(those), *keepers})
        return f"{text}; held by {', '.join(holders)}" if holders else text

    def _holders(self, uuids: Collection[str]) -> list[str]:
        """The services that hold something of these devices, in order; of a share, how much."""
        found = set()
        for replica in self._replicas:
            if not set(uuids).isdisjoint(replica.lease.gpus):
                share = replica.spec.resources.gpu_share_millis
                found.add(f"{replica.service} ({fraction(share)})" if share else str(replica.service))
        return sorted(found)


def fraction(millis: int) -> str:
    """Thousandths as people write them: `0.4`."""
    return f"{millis / WHOLE:g}"
