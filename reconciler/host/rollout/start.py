"""Replicas that start, and what goes on with those that do."""

from __future__ import annotations

from collections.abc import Sequence

from reconciler.host.capacity import Ledger
from reconciler.host.health import ReplicaPhase, restart_at
from reconciler.host.rollout.context import ServiceContext
from reconciler.host.rollout.failures import why
from reconciler.host.rollout.goal import Generation
from reconciler.host.rollout.reservations import need_of, parsed_of
from reconciler.host.rollout.staging import begin_staging, missing_files
from reconciler.host.rollout.steps import SOON, Steps
from reconciler.model import Lease, Reason, ReasonCode, Replica, ReplicaId, Start, TakeOwnership

# Seconds between two looks at a silent one; a change wakes the loop by itself.
_SILENT_LOOK = 5.0


def fill(
    s: ServiceContext, generation: Generation, ledger: Ledger, steps: Steps, occupied: Sequence[Replica], ceiling: int
) -> None:
    """Start what is missing. `occupied` are the replicas that count towards `ceiling`."""
    watch(s, generation, steps)
    missing = generation.count - len(members(s, generation))
    for _ in range(min(missing, ceiling - len(occupied))):
        if not _start_one(s, generation, ledger, steps):
            return


def watch(s: ServiceContext, generation: Generation, steps: Steps) -> None:
    """What goes on with the replicas that there are, and when to look again."""
    stopped = steps.stopped()
    for replica in members(s, generation):
        if replica.id in stopped:
            continue
        if s.phases[replica.id.serial] is ReplicaPhase.PLANNED and (missing := missing_files(s, generation.spec)):
            begin_staging(s, missing, steps)
        elif s.phases[replica.id.serial] is ReplicaPhase.PLANNED:
            if not _is_waiting(s, generation, steps):
                why = "on record, but not running yet"
                steps.act(_start(s, generation, replica.id, replica.lease, why))
                steps.look(s.now + 1)
        elif replica.ready_at is None:
            steps.say(f"starting {replica.id.serial}" + (f": {replica.again}" if replica.again else ""))
            steps.look(s.now + 1)
        elif replica.silence:
            steps.say(f"{replica.id.serial}: {replica.silent_why}")
            steps.look(s.now + _SILENT_LOOK)
        elif not s.is_available(replica):
            steps.say(f"{replica.id.serial} is ready; trusted after {s.patience.min_ready:g} s")
            steps.look(max(s.now + SOON, replica.ready_at + s.patience.min_ready))


def members(s: ServiceContext, generation: Generation) -> list[Replica]:
    """The replicas of a generation that serve or shall serve."""
    return [
        r
        for r in s.of(ReplicaPhase.PLANNED, ReplicaPhase.STARTING, ReplicaPhase.READY)
        if r.digest == generation.digest
    ]


def waiting_for(lacking: tuple[Reason, ...]) -> str:
    """What a start waits for whose room is about to be freed."""
    busy = (reason.message for reason in lacking if reason.code is ReasonCode.GPU_BUSY)
    return next(busy, "waiting for resources that are about to be freed")


def _start_one(s: ServiceContext, generation: Generation, ledger: Ledger, steps: Steps) -> bool:
    due = restart_at(s.crashes, s.now) if s.is_proven(generation.digest) else s.now
    if due > s.now:
        steps.say("crashed repeatedly; the next start backs off")
        steps.look(due)
        return False
    if _is_waiting(s, generation, steps):
        return False
    if missing := missing_files(s, generation.spec):
        begin_staging(s, missing, steps)
        return False
    need = need_of(s, generation)
    lease = ledger.take(need, s.id)
    if lease is None:
        steps.lack(ledger.lacks(need, s.id))
        if ledger.fits_soon(need, s.id):
            steps.say(waiting_for(steps.lacking))
            steps.look(s.now + SOON)
        return False
    replica = _new_id(s, generation, steps)
    if s.owned is None and not steps.takes_ownership():
        steps.record(TakeOwnership(s.id, generation.origin, "first replica on this host"))
    steps.act(_start(s, generation, replica, lease, _why_start(s, generation)))
    steps.say(f"starting {replica.serial}")
    steps.look(s.now + 1)
    return True


def _is_waiting(s: ServiceContext, generation: Generation, steps: Steps) -> bool:
    """Did its last start fail, so that the next one is not due yet?"""
    failed, due = s.start_failure(generation.digest), s.start_due(generation.digest)
    if failed is None or due <= s.now:
        return False
    steps.say(f"{generation.digest[:8]} {why(failed).message}; tried again with backoff")
    steps.look(due)
    return True


def _new_id(s: ServiceContext, generation: Generation, steps: Steps) -> ReplicaId:
    taken = {r.id.serial for r in s.replicas} | {r.serial for r in steps.started()}
    number = next(n for n in range(len(taken) + 1) if f"{generation.digest[:8]}-{n}" not in taken)
    return ReplicaId(s.id, f"{generation.digest[:8]}-{number}")


def _start(s: ServiceContext, generation: Generation, replica: ReplicaId, lease: Lease, why: str) -> Start:
    return Start(
        replica=replica,
        digest=generation.digest,
        spec=generation.spec,
        origin=generation.origin,
        lease=lease,
        drain_timeout=s.drain_timeout,
        parsed=parsed_of(s, generation.digest),
        revision=s.revision,
        reason=why,
    )


def _why_start(s: ServiceContext, generation: Generation) -> str:
    if s.desired and generation.digest != s.desired.digest:
        return f"rollback: the last good digest {generation.digest[:8]} is to be available"
    if s.is_proven(generation.digest):
        return "a replica is missing"
    return f"git asks for {generation.digest[:8]}"
