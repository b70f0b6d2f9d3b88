"""Which way a service goes: a table. Every combination of its four columns stands in exactly one row.

`strategy` measures the columns and `move` takes the way that is found here, step by step.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

from reconciler.host.rollout.goal import GoalKind


class Serving(StrEnum):
    """What serves now."""

    NOTHING = "Nothing"  # no replica is ready, and the last good digest may be back sooner than its successor
    NEW = "New"  # no replica that has to be replaced is ready
    OLD = "Old"  # replicas that have to be replaced are ready


class Asked(StrEnum):
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
    asked: Collection[Asked]
    room: Collection[Room]
    way: Way

    def holds(self, goal: GoalKind, serving: Serving | None, asked: Asked | None, room: Room | None) -> bool:
        return (
            goal in self.goals
            and (not self.serving or serving in self.serving)
            and (not self.asked or asked in self.asked)
            and (not self.room or room in self.room)
        )


_ON = (GoalKind.ROLL, GoalKind.RESTORE)
_DEFAULT, _EXPLICIT = (Asked.DEFAULT,), (Asked.EXPLICIT,)
_OLD = (Serving.OLD,)
# fmt: off
TABLE: tuple[Row, ...] = (
    #   goal                  serving              asked       room                          way
    Row((GoalKind.LEAVE,),    (),                  (),         (),                           Way.FORGET),
    Row((GoalKind.SUSPEND,),  (),                  (),         (),                           Way.EMPTY),
    Row((GoalKind.HOLD,),     (),                  (),         (),                           Way.KEEP),
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
    goal: GoalKind, serving: Serving | None = None, asked: Asked | None = None, room: Room | None = None
) -> Row:
    """The row for these; what the goal makes irrelevant need not be measured."""
    return next(row for row in TABLE if row.holds(goal, serving, asked, room))
