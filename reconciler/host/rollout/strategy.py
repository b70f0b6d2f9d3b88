"""Which way a service goes from what is observed to its goal: a table, and what its columns measure. Pure.

`move` takes the way that is found here, step by step.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import StrEnum

from reconciler.host.capacity import Ledger
from reconciler.host.health import ReplicaPhase
from reconciler.host.rollout.context import ServiceContext
from reconciler.host.rollout.fallback import Fallback, find_return
from reconciler.host.rollout.goal import Generation, Goal, GoalKind
from reconciler.host.rollout.reservations import need_of
from reconciler.host.rollout.start import members, waiting_for
from reconciler.model import Reason, Replica, Strategy


class Serving(StrEnum):
    """What serves now."""

    NOTHING = "Nothing"  # no replica is ready, and the last good digest may be back sooner than its successor
    NEW = "New"  # no replica that has to be replaced is ready
    OLD = "Old"  # replicas that have to be replaced are ready


class RequestedStrategy(StrEnum):
    """The strategy that git asks for."""

    DEFAULT = "Default"  # none: surge where there is room, else stop first
    EXPLICIT = "Explicit"  # spec.predictor.deploymentStrategy


class Room(StrEnum):
    """Where one more replica of the new digest has room."""

    BESIDE = "Beside"  # in addition to all that runs, or none more is needed
    SOON = "Soon"  # in addition, once something is gone that is leaving
    INSTEAD = "Instead"  # only in place of an old replica
    NONE = "None"


class Way(StrEnum):
    """What is done to get there."""

    FORGET = "Forget"  # end everything, then forget the service
    EMPTY = "Empty"  # end everything
    KEEP = "Keep"  # end nothing that was started, restart the last good digest
    GIVE_UP = "GiveUp"  # end what is not ready
    FALL_BACK = "FallBack"  # first start the last good digest
    START = "Start"  # start what is missing: there is nothing to replace
    SURGE = "Surge"  # start new, switch, drain old
    STOP_FIRST = "StopFirst"  # drain old, stop it, start new
    OBEY = "Obey"  # start and drain within the bounds that git asks for
    OBEY_UPWARDS = "ObeyUpwards"  # the same, but drain nothing for what has no room
    WAIT = "Wait"  # change nothing until the room is free
    BLOCKED = "Blocked"  # change nothing: there is no room, and none is about to be freed


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. An empty column stands for whatever there may be."""

    goals: Collection[GoalKind]
    serving: Collection[Serving]
    asked: Collection[RequestedStrategy]
    room: Collection[Room]
    way: Way

    def holds(
        self, goal: GoalKind, serving: Serving | None, asked: RequestedStrategy | None, room: Room | None
    ) -> bool:
        return (
            goal in self.goals
            and (not self.serving or serving in self.serving)
            and (not self.asked or asked in self.asked)
            and (not self.room or room in self.room)
        )


_ON = (GoalKind.ROLL, GoalKind.RESTORE)
_DEFAULT, _EXPLICIT = (RequestedStrategy.DEFAULT,), (RequestedStrategy.EXPLICIT,)
_OLD = (Serving.OLD,)
# fmt: off
TABLE: tuple[Row, ...] = (
    #   goal                  serving              asked       room                          way
    Row((GoalKind.LEAVE,),    (),                  (),         (),                           Way.FORGET),
    Row((GoalKind.SUSPEND,),  (),                  (),         (),                           Way.EMPTY),
    Row((GoalKind.KEEP,),     (),                  (),         (),                           Way.KEEP),
    Row((GoalKind.GIVE_UP,),  (),                  (),         (),                           Way.GIVE_UP),
    Row(_ON,                  (Serving.NOTHING,),  (),         (),                           Way.FALL_BACK),
    Row(_ON,                  (Serving.NEW,),      (),         (),                           Way.START),
    Row(_ON,                  _OLD,                _DEFAULT,   (Room.BESIDE,),               Way.SURGE),
    Row(_ON,                  _OLD,                _DEFAULT,   (Room.SOON,),                 Way.WAIT),
    Row(_ON,                  _OLD,                _DEFAULT,   (Room.INSTEAD,),              Way.STOP_FIRST),
    Row(_ON,                  _OLD,                _DEFAULT,   (Room.NONE,),                 Way.BLOCKED),
    Row(_ON,                  _OLD,                _EXPLICIT,  (Room.BESIDE, Room.INSTEAD),  Way.OBEY),
    Row(_ON,                  _OLD,                _EXPLICIT,  (Room.SOON, Room.NONE),       Way.OBEY_UPWARDS),
)
# fmt: on


def find_row(
    goal: GoalKind, serving: Serving | None = None, asked: RequestedStrategy | None = None, room: Room | None = None
) -> Row:
    """The row for these; what the goal makes irrelevant need not be measured."""
    return next(row for row in TABLE if row.holds(goal, serving, asked, room))


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
    asked = RequestedStrategy.EXPLICIT if explicit else RequestedStrategy.DEFAULT
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
