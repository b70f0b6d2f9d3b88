"""Room that is nobody's lease at this moment, but must not go to anybody else."""

from __future__ import annotations

from collections.abc import Iterator

from reconciler.capacity import NOTHING, Ledger, add, impossible, shortfall
from reconciler.health import Life
from reconciler.model import Replica, Resources
from reconciler.rollout.situation import Situation


def keep_room(s: Situation, ledger: Ledger) -> None:
    """Claim what the service needs to start its last good spec again, and what it was drained for.

    Without this a neighbour could take the room in the moment between two replicas, and nothing would serve any more.
    """
    # One by one: room for some replicas is worth keeping where there is none for all.
    for need in _to_restore(s, ledger):
        ledger.claim(need, s.id)
    ledger.claim(_to_succeed(s, ledger), s.id)


def keep_room_for(successor: Resources, old: tuple[Replica, ...], s: Situation, ledger: Ledger) -> None:
    """Claim what a successor will need beyond what is drained for it."""
    ledger.claim(shortfall(successor, ledger.held_by(old)), s.id)


def _to_restore(s: Situation, ledger: Ledger) -> Iterator[Resources]:
    """What the first, the first two … replicas of the last good spec need beyond what the service holds."""
    want, promoted = s.desired, s.promoted
    may_leave = want is None or bool(want.not_here)
    if promoted is None or (may_leave and s.keep is None) or impossible(promoted.spec.resources, s.capacity):
        return
    count = promoted.replicas
    if want is not None and want.spec is not None and not want.not_here:
        if want.replicas == 0 or (s.is_proven(want.digest) and want.blocked):
            return
        count = min(count, want.replicas) if s.is_proven(want.digest) else count
    held = ledger.held_by(s.replicas)
    for number in range(1, count + 1):
        yield shortfall(add(*[promoted.spec.resources] * number), held)


def _to_succeed(s: Situation, ledger: Ledger) -> Resources:
    want = s.desired
    if want is None or want.spec is None or want.digest in s.quarantines or impossible(want.spec.resources, s.capacity):
        return NOTHING
    leaving = tuple(r for r in s.of(Life.DRAINING, Life.STOPPING, Life.GONE) if r.digest != want.digest)
    running = sum(r.digest == want.digest for r in s.of(Life.PLANNED, Life.STARTING, Life.READY))
    # The room of an old one that is gone already is kept as well, until its successor has it.
    is_short = s.promoted is not None and len(s.replicas) < min(want.replicas, s.promoted.replicas)
    if not (leaving or is_short) or running >= want.replicas:
        return NOTHING
    return shortfall(want.spec.resources, ledger.held_by(leaving))
