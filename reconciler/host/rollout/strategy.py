"""The way from what is observed to the goal, and why that one: measures what `ways` has a column for."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from reconciler.host.capacity import Ledger
from reconciler.host.health import ReplicaPhase
from reconciler.host.rollout.context import ServiceContext
from reconciler.host.rollout.fallback import Fallback, find_return
from reconciler.host.rollout.goal import Generation, Goal, GoalKind
from reconciler.host.rollout.needs import need_of
from reconciler.host.rollout.start import members, waiting_for
from reconciler.host.rollout.ways import Asked, Room, Serving, Way, find_row
from reconciler.model import Reason, Replica, Strategy

SURGE = Strategy(max_surge=1, max_unavailable=0, explicit=False)
STOP_FIRST = Strategy(max_surge=0, max_unavailable=1, explicit=False)


@dataclass(frozen=True, slots=True)
class Transition:
    """The way that was chosen.

    `bounds` are how many replicas may be added, or missing, on it. `text` tells people of it. `lacking` is why what is
    new has no room. `fallback` is what comes first where that is the way.
    """

    way: Way
    bounds: Strategy = SURGE
    text: str = ""
    lacking: tuple[Reason, ...] = ()
    fallback: Fallback | None = None


def choose(s: ServiceContext, goal: Goal, ledger: Ledger) -> Transition:
    """The way of one service. Claims from the ledger the room that is to be made."""
    if goal.kind not in (GoalKind.ROLL, GoalKind.RESTORE):
        return Transition(find_row(goal.kind).way)
    explicit = s.desired.strategy if s.desired else None
    asked = Asked.EXPLICIT if explicit else Asked.DEFAULT
    if fallback := find_return(s, goal, ledger):
        way = find_row(goal.kind, Serving.NOTHING, asked).way
        text = f"the last good digest {fallback.first.digest[:8]} first: no replica is available"
        return Transition(way, explicit or SURGE, text, fallback=fallback)
    main, old = goal.generations[0], old_replicas(s, goal)
    if not old:
        return Transition(find_row(goal.kind, Serving.NEW, asked).way, explicit or SURGE)
    room = _room_in_bounds(s, main, old, ledger) if explicit else _room(s, main, old, ledger)
    way = find_row(goal.kind, Serving.OLD, asked, room).way
    bounds = _bounds(way, explicit)
    if room is Room.INSTEAD and bounds.max_unavailable:
        ledger.claim(need_of(s, main).resources, 1, s.id, beside=old[:1])
    return Transition(way, bounds, _text(s, way, main, old, ledger), _lacking(s, way, main, old, ledger))


def old_replicas(s: ServiceContext, goal: Goal) -> list[Replica]:
    """Those to be replaced, in the order in which they make room: never promoted, then canaries, then the oldest."""
    wanted = {generation.digest for generation in goal.generations}
    canary = {endpoint.replica for endpoint in s.route.canary} if s.route else set()
    old = [r for r in s.of(ReplicaPhase.READY) if r.digest not in wanted]
    return sorted(old, key=lambda r: (s.is_proven(r.digest), r.id not in canary))


def is_busy(s: ServiceContext, main: Generation) -> bool:
    """Is anything of it starting, not yet trusted, or on its way out?"""
    unsettled = any(not s.is_available(replica) for replica in members(s, main))
    return unsettled or bool(s.of(ReplicaPhase.BROKEN, ReplicaPhase.DRAINING, ReplicaPhase.STOPPING, ReplicaPhase.GONE))


# ---------------------------------------------------------------- room


def _room(s: ServiceContext, main: Generation, old: list[Replica], ledger: Ledger) -> Room:
    there, need = len(members(s, main)), need_of(s, main)
    has_extra = there + len(old) > main.count
    if there >= main.count or has_extra or is_busy(s, main) or ledger.fits(need, s.id):
        return Room.BESIDE
    if ledger.fits_soon(need, s.id):
        return Room.SOON
    return Room.INSTEAD if ledger.fits_without(need, s.id, old[:1]) else Room.NONE


def _room_in_bounds(s: ServiceContext, main: Generation, old: list[Replica], ledger: Ledger) -> Room:
    """Who asks for bounds decides alone when to drain; room is looked for once an old replica is gone."""
    if len(members(s, main)) >= main.count:
        return Room.BESIDE
    return Room.INSTEAD if ledger.fits_without(need_of(s, main), s.id, old[:1]) else Room.NONE


def _bounds(way: Way, explicit: Strategy | None) -> Strategy:
    """What git asks for is obeyed; but nothing is stopped for a successor that would not fit."""
    if explicit:
        return replace(explicit, max_unavailable=0) if way is Way.OBEY_UPWARDS else explicit
    return STOP_FIRST if way is Way.STOP_FIRST else SURGE


def _lacking(s: ServiceContext, way: Way, main: Generation, old: list[Replica], ledger: Ledger) -> tuple[Reason, ...]:
    if way not in (Way.OBEY_UPWARDS, Way.BLOCKED):
        return ()
    need = need_of(s, main)
    return ledger.crowded_without(need, s.id, old[:1]) or ledger.lacks(need, s.id)


# ---------------------------------------------------------------- what people read


def _text(s: ServiceContext, way: Way, main: Generation, old: list[Replica], ledger: Ledger) -> str:
    match way:
        case Way.SURGE:
            return "surge: start new, switch, drain old"
        case Way.WAIT:
            return f"surge: {waiting_for(ledger.lacks(need_of(s, main), s.id))}"
        case Way.STOP_FIRST:
            lacks = "; ".join(reason.message for reason in ledger.lacks(need_of(s, main), s.id))
            price = _price(s, main.count, old)
            return f"stop-first: drain old, stop it, start new; not enough resources for both ({lacks}); {price}"
        case Way.OBEY | Way.OBEY_UPWARDS:
            return _told(s.desired.strategy) if s.desired and s.desired.strategy else ""
        case _:
            return ""


def _told(asked: Strategy) -> str:
    name = "Recreate" if asked.recreate else "RollingUpdate"
    return f"{name} (deploymentStrategy): maxSurge {asked.max_surge}, maxUnavailable {asked.max_unavailable}"


def _price(s: ServiceContext, count: int, old: list[Replica]) -> str:
    """How long it will hurt, from what the starts before it took."""
    starts = [r.ready_at - r.created_at for r in old if r.ready_at is not None and r.ready_at > r.created_at]
    start = f"about {math.ceil(max(starts))} s, as last time," if starts else "an unknown time"
    serving = f"{count - 1} of {count} replicas serve" if count > 1 else "nothing serves"
    return f"{serving} for at most {s.drain_timeout:g} s while running requests end, then {start} while it starts"
