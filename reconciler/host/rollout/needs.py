"""What one replica will need when it starts."""

from __future__ import annotations

from reconciler.engines.fit_arguments import arguments_of
from reconciler.host.capacity import WHOLE, Need
from reconciler.host.rollout.context import ServiceContext
from reconciler.host.rollout.goal import Generation


def need_of(s: ServiceContext, generation: Generation) -> Need:
    """Its resources, and the part of its GPUs' memory that its engine is configured to take."""
    spec = generation.spec
    if not spec.resources.gpus and not spec.resources.other:
        return Need(spec.resources)
    parsed = parsed_of(s, generation.digest)
    told = arguments_of(parsed, spec.command_line, {}).utilization
    share = spec.resources.gpu_share_millis
    return Need(spec.resources, min(told, share / WHOLE) if share else told)


def parsed_of(s: ServiceContext, digest: str) -> str:
    """What the engine made of this digest's arguments, from any source that still knows it."""
    if s.preflight and s.desired and s.desired.digest == digest:
        return s.preflight.parsed
    if s.promoted and s.promoted.digest == digest and s.promoted.parsed:
        return s.promoted.parsed
    return next((r.parsed for r in s.replicas if r.digest == digest and r.parsed), "")
