"""The promoted version comes first, where nothing of a service serves although no rollout stopped it.

So it is after a cordon, a reboot or a crash in the middle of a rollout: the new digest may never be ready, and waiting
for it would cost all of `ready_timeout`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from reconciler.host.capacity import Ledger, impossible
from reconciler.host.health import ReplicaPhase, has_crashed, is_drained
from reconciler.host.rollout.context import ServiceContext
from reconciler.host.rollout.goal import Generation, Goal, last_good
from reconciler.host.rollout.reservations import need_of
from reconciler.host.rollout.staging import missing_files
from reconciler.model import Replica

_ON_THE_WAY_OUT = (
    ReplicaPhase.PLANNED,
    ReplicaPhase.HUNG,
    ReplicaPhase.BROKEN,
    ReplicaPhase.DRAINING,
    ReplicaPhase.STOPPING,
    ReplicaPhase.GONE,
)


@dataclass(frozen=True, slots=True)
class Fallback:
    """The last good digest comes back, no more often than git wants its successor: room for that has to stay.

    `alone`: nothing else starts until it serves.
    """

    first: Generation
    alone: bool


def find_return(s: ServiceContext, goal: Goal, ledger: Ledger) -> Fallback | None:
    """Whether the last good digest is to come back, though git has moved on."""
    if s.promoted is None or not s.promoted.replicas or s.is_proven(goal.generations[-1].digest):
        return None
    spec = s.promoted.spec
    if s.of(ReplicaPhase.READY) or s.start_due(s.promoted.digest) > s.now or impossible(spec.resources, s.capacity):
        return None
    if missing_files(s, spec):
        return None
    # What crashed or failed to start may not come up any more, and the new one may be the cure: that must not wait.
    main, good = goal.generations[0], last_good(s.promoted)
    first = replace(good, count=min(good.count, main.count))
    found = Fallback(first, alone=not (has_crashed(s.crashes, s.now) or s.start_failure(good.digest)))
    return found if _serves_on(s, found, main, ledger) else None


def wanted_back(s: ServiceContext, first: Generation) -> list[Replica]:
    """Its replicas that drain and can be taken back."""
    back = [r for r in s.of(ReplicaPhase.DRAINING) if r.digest == first.digest and r.ready_at and not is_drained(r)]
    return back[: first.count]


def _serves_on(s: ServiceContext, found: Fallback, main: Generation, ledger: Ledger) -> bool:
    """Is there room for it, and does the rollout that follows not stop it before its successor serves?"""
    first = found.first
    staying = wanted_back(s, first) + _running(s, first.digest)
    leaving = [r for r in s.of(*_ON_THE_WAY_OUT) if r not in staying]
    need = () if staying else (need_of(s, first),)
    if main.digest == first.digest:
        return found.alone and (bool(staying) or ledger.fit_without(need, s.id, leaving))
    is_running = bool(_running(s, main.digest))
    if not is_running and not ledger.fits_without(need_of(s, main), s.id, [*leaving, *staying]):
        # Nothing goes for a successor that could not start even so.
        return bool(staying) or ledger.fit_without(need, s.id, leaving)
    both = need if is_running else (*need, need_of(s, main))
    holds_both = ledger.fit_without(both, s.id, leaving)
    if not found.alone and not holds_both:
        return False
    explicit = s.desired.strategy if s.desired else None
    # Stop-first lets one go at a time, were it the only one.
    count = main.count if explicit else min(first.count, len(staying) + _starting_now(s, found, staying, ledger))
    most_missing = explicit.max_unavailable if explicit else int(not holds_both)
    return count > most_missing and (bool(staying) or ledger.fit_without(need, s.id, leaving))


def _starting_now(s: ServiceContext, found: Fallback, staying: list[Replica], ledger: Ledger) -> int:
    """How many more of it will be there when the rollout goes on: on a shared GPU one starts after the other."""
    first = found.first
    if staying and not ledger.fits(need_of(s, first), s.id):
        return 0
    return 1 if first.spec.resources.gpu_share_millis else first.count


def _running(s: ServiceContext, digest: str) -> list[Replica]:
    return [r for r in s.of(ReplicaPhase.PLANNED, ReplicaPhase.STARTING) if r.digest == digest]
