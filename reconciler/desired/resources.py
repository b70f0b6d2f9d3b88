"""What a service asks of its host's GPUs, memory and CPU: a share, what is ignored, what no such host could give. Pure.

That is known here before the planner observes the host: authors of manifests should know before.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from reconciler.config.settings import HostSettings
from reconciler.desired.origins import Origins
from reconciler.engines.arguments import given_utilization, parallel_size
from reconciler.engines.container import Revealed, server_flags, unsupported
from reconciler.host.capacity import WHOLE, Ledger, Need, fraction, impossible, too_few_gpus
from reconciler.kserve.quantity import cpu_millis, memory_bytes
from reconciler.model import (
    GPU,
    GPU_FRACTION,
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

_ENDLESS = 1 << 62
_PART = "MIG-"
_FRACTION = re.compile(r"0?\.\d{1,3}", re.ASCII)


def capacity_of(target: HostSettings) -> Capacity:
    """The capacity in the config. What it does not limit is endless, and GPUs that are not known do not count."""
    limits = target.allocatable
    return Capacity(
        cpu_millis=cpu_millis(limits.cpu) if limits.cpu else _ENDLESS,
        memory_bytes=memory_bytes(limits.memory) if limits.memory else _ENDLESS,
        gpus=() if target.gpus == "auto" else tuple(Gpu(each) for each in target.gpus if not each.startswith(_PART)),
        ports=tuple(target.port_range),
    )


def never_here(one: Desired, target: HostSettings, measured: Capacity | None) -> Iterator[Reason]:
    """Why a service, or its canary, could not run on this host even if it were empty."""
    if one.spec is None or one.not_here or not one.replicas:
        return
    yield from _never(one.spec, one.resources_origin or one.origin, target, measured)
    if (canary := one.canary) is not None:
        where = canary.resources_origin or one.origin
        yield from _never(canary.spec, where, target, measured)


def _never(spec: EffectiveSpec, where: Origin, target: HostSettings, measured: Capacity | None) -> Iterator[Reason]:
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


def not_at_once(services: Iterable[Desired], target: HostSettings, measured: Capacity | None) -> Iterator[Reason]:
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


def _known_need(need: Resources, target: HostSettings, measured: Capacity | None) -> Resources:
    """Without devices of which it is unknown here whether the host has them."""
    if measured is not None or target.gpus == ():
        return need
    # The UUID of a part does not tell its profile, and that of a GPU in MIG mode stands for all of its parts.
    whole = tuple(each for each in need.other if each not in need.mig)
    return replace(need, gpus=0 if target.gpus == "auto" else need.gpus, other=whole)


def read_share(resources: Resources, pod: Mapping[str, Any], origins: Origins) -> Resources | Reason:
    """The resources with the share of the pod's annotations, or why that is invalid."""
    given = (pod.get("annotations") or {}).get(GPU_FRACTION)
    if given is None:
        return resources
    where = origins.of_annotation(GPU_FRACTION)
    millis = round(float(given) * WHOLE) if _FRACTION.fullmatch(given) else 0
    if not millis:
        text = f'{GPU_FRACTION}: "{given}" must be more than 0 and less than 1, with three digits at most, as "0.4"'
        return Reason(ReasonCode.INVALID_ANNOTATION, text, where)
    if resources.gpus != 1 or resources.mig:
        asked = ", ".join(f"{n} {kind}" for kind, n in ((GPU, resources.gpus), *resources.mig) if n) or f"no {GPU}"
        text = f"{GPU_FRACTION} divides one GPU, but resources request {asked}; request 1 {GPU}, or remove it"
        return Reason(ReasonCode.INVALID_ANNOTATION, text, where)
    return replace(resources, gpu_share_millis=millis)


def exceeded_share(spec: EffectiveSpec, secrets: Revealed, origins: Origins) -> Iterator[Reason]:
    """An argument that lets the engine take more of its GPU than it was given."""
    share = spec.resources.gpu_share_millis
    given = given_utilization(server_flags(spec, secrets)) if share else None
    if given is None or given.value * WHOLE <= share:
        return
    text = (
        f"{given.argument.text.partition('=')[0]} {given.value:g} is more than the {fraction(share)} of a GPU that "
        f"{GPU_FRACTION} allows ({origins.of_annotation(GPU_FRACTION)}); lower it, or remove it and get that"
    )
    yield Reason(ReasonCode.GPU_SHARE_EXCEEDED, text, given.argument.origin or origins.service.origin)
