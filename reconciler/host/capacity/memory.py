"""Whether GPUs have the memory that an engine will need when it starts. Pure.

vLLM takes a share of all memory of its GPUs, and does not start where less than that is free. So nothing is started,
and above all nothing stopped for it, where a foreign process has that memory.
"""

from __future__ import annotations

from collections.abc import Iterable

from reconciler.model import GpuUse, Reason, ReasonCode

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


def reason(share: float, crowded: Iterable[tuple[str, GpuUse]]) -> Reason:
    """Why an engine cannot have its share of these GPUs, naming who has it."""
    found = [f"{uuid} {_state(use, share)}" for uuid, use in crowded]
    return Reason(ReasonCode.INSUFFICIENT_GPU_MEMORY, f"needs {share:.2g} of a GPU's memory free: {'; '.join(found)}")


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
