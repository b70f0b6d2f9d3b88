"""The annotation for a fraction of one GPU, and whether the engine's arguments agree with it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from reconciler.desired.origins import Origins
from reconciler.engines.arguments import given_utilization
from reconciler.engines.container import Revealed, server_flags
from reconciler.host.capacity import WHOLE, fraction
from reconciler.model import GPU, GPU_FRACTION, EffectiveSpec, Reason, ReasonCode, Resources

_FRACTION = re.compile(r"0?\.\d{1,3}", re.ASCII)


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
