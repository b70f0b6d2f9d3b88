"""What can never run on a host, or not all at once: from its config, or from what was measured on the host. Pure.

The planner reports the same once it has observed the host; authors of manifests should know before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from reconciler.config.settings import TargetSettings
from reconciler.desired.origins import Origins
from reconciler.engines.launch import server_flags, unsupported
from reconciler.engines.parallel import parallel_size
from reconciler.host.capacity import Ledger, Need, impossible, too_few_gpus
from reconciler.kserve.quantity import cpu_millis, memory_bytes
from reconciler.model import (
    GPU,
    NO_ORIGIN,
    Capacity,
    Desired,
    EffectiveSpec,
    Gpu,
    Origin,
    Reason,
    ReasonCode,
    Resources,
)

# More than any host has: not limited by the config, and not measured.
_ENDLESS = 1 << 62
_PART = "MIG-"


def capacity_of(target: TargetSettings) -> Capacity:
    """The capacity in the config. What it does not limit is endless, and GPUs that are not known do not count."""
    limits = target.allocatable
    return Capacity(
        cpu_millis=cpu_millis(limits.cpu) if limits.cpu else _ENDLESS,
        memory_bytes=memory_bytes(limits.memory) if limits.memory else _ENDLESS,
        gpus=() if target.gpus == "auto" else tuple(Gpu(each) for each in target.gpus if not each.startswith(_PART)),
        ports=tuple(target.port_range),
    )


def never_here(one: Desired, target: TargetSettings, measured: Capacity | None) -> Iterator[Reason]:
    """Why a service, or its canary, could not run on this host even if it were empty."""
    if one.spec is None or one.not_here or not one.replicas:
        return
    yield from _never(one.spec, one.resources_origin or one.origin, target, measured)
    if (canary := one.canary) is not None:
        where = canary.resources_origin or one.origin
        yield from _never(canary.spec, where, target, measured)


def _never(spec: EffectiveSpec, where: Origin, target: TargetSettings, measured: Capacity | None) -> Iterator[Reason]:
    need = _known_need(spec.resources, target, measured)
    yield from (replace(each, origin=where) for each in impossible(need, measured or capacity_of(target)))
    size = parallel_size(server_flags(spec))
    if size and (text := too_few_gpus(size.gpus, spec.resources)):
        yield Reason(ReasonCode.TOO_FEW_GPUS, text, (size.argument.origin if size.argument else NO_ORIGIN) or where)


def idle_gpus(spec: EffectiveSpec, origins: Origins) -> Iterator[Reason]:
    """GPUs that are leased, and that the arguments make no use of."""
    leased, size = spec.resources.gpus, parallel_size(server_flags(spec))
    if leased > 1 and size and size.gpus < leased and not unsupported(spec):
        used = "only one of them" if size.gpus == 1 else f"only {size.gpus} of them"
        text = (
            f"resources request {leased} {GPU}, but the arguments use {used} (tensor, pipeline and data parallel): set "
            f"--tensor-parallel-size={leased}, or lower the limit"
        )
        yield Reason(ReasonCode.IDLE_GPUS, text, origins.of_limit(GPU))


def ignored_resources(container: Mapping[str, Any], origins: Origins) -> Iterator[Reason]:
    """What a node would count, and a host does not: disk, huge pages."""
    given = container.get("resources") or {}
    if given.get("claims"):
        text = f"resources: claims are ignored on a host, which leases what limits name, for example {GPU}"
        yield Reason(ReasonCode.FIELD_IGNORED, text, origins.of_container_field("resources", "claims"))
    for name in sorted({*(given.get("limits") or {}), *(given.get("requests") or {})} - {"cpu", "memory"}):
        if "/" not in name:
            text = f"resources: {name} is ignored on a host, which counts cpu, memory, {GPU} and MIG devices"
            yield Reason(ReasonCode.FIELD_IGNORED, text, origins.of_limit(name))


def not_at_once(services: Iterable[Desired], target: TargetSettings, measured: Capacity | None) -> Iterator[Reason]:
    """Services whose replicas do not all fit together, in document order."""
    capacity = measured or capacity_of(target)
    ledger = Ledger(capacity, ())
    for one in services:
        if one.spec is None or one.blocked or one.problems:
            continue
        need = Need(_known_need(one.spec.resources, target, measured))
        for number in range(one.replicas):
            if lacks := ledger.lacks(need, one.id):
                text = f"{number} of {one.replicas} replicas fit on this host with the other services of these files"
                why = "; ".join(each.message for each in lacks)
                yield Reason(ReasonCode.INSUFFICIENT_CAPACITY, f"{text}: {why}", one.resources_origin or one.origin)
                break
            ledger.take(need, one.id)


def _known_need(need: Resources, target: TargetSettings, measured: Capacity | None) -> Resources:
    """Without devices of which it is unknown here whether the host has them."""
    if measured is not None or target.gpus == ():
        return need
    # The UUID of a part does not tell its profile, and that of a GPU in MIG mode stands for all of its parts.
    whole = tuple(each for each in need.other if each not in need.mig)
    return replace(need, gpus=0 if target.gpus == "auto" else need.gpus, other=whole)
