"""What one replica needs when it starts, and room that is not leased but must not go to others. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from reconciler.engines.fit_model import arguments_of
from reconciler.fault_isolation import Faults
from reconciler.host.capacity import WHOLE, Ledger, Need, impossible
from reconciler.host.health import ReplicaPhase
from reconciler.host.rollout.context import ServiceContext
from reconciler.host.rollout.goal import Generation
from reconciler.model import (
    NO_ORIGIN,
    EffectiveSpec,
    Replica,
)


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


def keep_room(contexts: Iterable[ServiceContext], ledger: Ledger, faults: Faults) -> None:
    """Claim what services need to start their last good specs again, and then what they were drained for.

    Without this a neighbour could take the room in the moment between two replicas, and nothing would serve any more.
    A service that makes us raise is noted in `faults`.
    """
    contexts = tuple(contexts)
    for keep in (_keep_to_restore, _keep_to_succeed):
        for s in contexts:
            try:
                keep(s, ledger)
            except Exception as error:
                faults.note(s.id, error, s.desired.origin if s.desired else NO_ORIGIN)


def _keep_to_restore(s: ServiceContext, ledger: Ledger) -> None:
    if s.promoted is not None:
        # One by one: room for some replicas is worth keeping where there is none for all.
        for number in range(1, _count_to_restore(s) + 1):
            ledger.claim(s.promoted.spec.resources, number, s.id, beside=s.replicas)


def _keep_to_succeed(s: ServiceContext, ledger: Ledger) -> None:
    leaving = tuple(
        r
        for r in s.of(ReplicaPhase.DRAINING, ReplicaPhase.STOPPING, ReplicaPhase.GONE)
        if r.digest != _wanted_digest(s)
    )
    if spec := _successor(s, leaving):
        ledger.claim(spec.resources, 1, s.id, beside=leaving)


def _count_to_restore(s: ServiceContext) -> int:
    """How many replicas of the last good spec the service may want to start again."""
    want, promoted = s.desired, s.promoted
    may_leave = want is None or bool(want.not_here)
    if promoted is None or (may_leave and s.keep is None) or impossible(promoted.spec.resources, s.capacity):
        return 0
    if want is None or want.spec is None or want.not_here:
        return promoted.replicas
    if want.replicas == 0 or (s.is_proven(want.digest) and want.blocked):
        return 0
    return min(promoted.replicas, want.replicas) if s.is_proven(want.digest) else promoted.replicas


def _wanted_digest(s: ServiceContext) -> str:
    return s.desired.digest if s.desired else ""


def _successor(s: ServiceContext, leaving: tuple[Replica, ...]) -> EffectiveSpec | None:
    """What a replica was or is being drained for, until it is there."""
    want = s.desired
    if (
        s.unschedulable
        or want is None
        or want.spec is None
        or want.digest in s.quarantines
        or impossible(want.spec.resources, s.capacity)
    ):
        return None
    running = sum(
        r.digest == want.digest for r in s.of(ReplicaPhase.PLANNED, ReplicaPhase.STARTING, ReplicaPhase.READY)
    )
    # The room of an old one that is gone already is kept as well, until its successor has it.
    is_short = s.promoted is not None and len(s.replicas) < min(want.replicas, s.promoted.replicas)
    return want.spec if (leaving or is_short) and running < want.replicas else None
