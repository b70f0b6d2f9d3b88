"""How a service's Deployment goes from its old version to the new one: a table, and what its columns measure. Pure.

KServe's own strategy is a rolling update with 25 % of surge and 25 % missing. Up to three replicas that is one more
and none missing: where no GPU is spare, such a rollout waits for ever, beside an old version that it does not let go.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from reconciler.cluster.rollout.gpus import ClusterRoom, PodNeed, Room, lack, room_for, why_unknown
from reconciler.kserve import names
from reconciler.model import GPU, NO_ORIGIN, KubeObject, NoOrigin, Origin, Reason, ReasonCode, Strategy

_DEFAULT_PERCENT = 25


class RequestedStrategy(StrEnum):
    """The strategy that git asks for."""

    DEFAULT = "Default"  # none
    EXPLICIT = "Explicit"  # spec.predictor.deploymentStrategy


class Count(StrEnum):
    """How many pods there are, as far as it matters to KServe's own strategy."""

    ONE = "One"
    FEW = "Few"  # it lets none of them go before a new one is ready
    MANY = "Many"  # it lets some go first


class Way(StrEnum):
    """What the Deployment is told to do."""

    START = "Start"  # there is nothing to replace
    AS_IT_IS = "AsItIs"  # KServe's own strategy
    OBEY = "Obey"  # what git asks for
    RECREATE = "Recreate"  # the old pod goes, then the new one starts
    ONE_BY_ONE = "OneByOne"  # a rolling update without surge: one is missing at a time
    BLOCKED = "Blocked"  # nothing is applied: the new version would have no room even then


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. An empty column stands for whatever there may be."""

    asked: Collection[RequestedStrategy]
    room: Collection[Room]
    count: Collection[Count]
    way: Way

    def holds(self, asked: RequestedStrategy, room: Room, count: Count) -> bool:
        columns = ((self.asked, asked), (self.room, room), (self.count, count))
        return all(not wanted or found in wanted for wanted, found in columns)


_DEFAULT, _EXPLICIT = (RequestedStrategy.DEFAULT,), (RequestedStrategy.EXPLICIT,)
# fmt: off
TABLE: tuple[Row, ...] = (
    #   asked      room                         count          way
    Row((),        (Room.NONE,),                (),            Way.BLOCKED),
    Row(_EXPLICIT, (),                          (),            Way.OBEY),
    Row(_DEFAULT,  (Room.BESIDE, Room.UNKNOWN), (),            Way.AS_IT_IS),
    Row(_DEFAULT,  (Room.INSTEAD,),             (Count.ONE,),  Way.RECREATE),
    Row(_DEFAULT,  (Room.INSTEAD,),             (Count.FEW,),  Way.ONE_BY_ONE),
    Row(_DEFAULT,  (Room.INSTEAD,),             (Count.MANY,), Way.AS_IT_IS),
)
"""For a service that needs devices, runs and is not spread over nodes; all others go as they are."""
# fmt: on

_STRATEGIES: Mapping[Way, Mapping[str, Any]] = {
    Way.RECREATE: {"type": "Recreate"},
    Way.ONE_BY_ONE: {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
}


@dataclass(frozen=True, slots=True)
class ServiceChange:
    """What is known of one service that is about to change.

    `pods` are those of one replica of the new version: one, or the head and its workers. `old` are the pods that run
    now, and `replicas` how many the Deployment wants, whoever scales it. `starts` are how many seconds starts of this
    service took before, from creation to ready; `grace_seconds` is what its pods have for ending.
    """

    pods: tuple[PodNeed, ...]
    old: tuple[KubeObject, ...] = ()
    replicas: int = 1
    asked: Strategy | None = None
    mode: str = names.STANDARD
    starts: tuple[float, ...] = ()
    grace_seconds: int = 30
    origin: Origin | NoOrigin = NO_ORIGIN

    @property
    def spans_nodes(self) -> bool:
        return len(self.pods) > 1

    @property
    def needs_devices(self) -> bool:
        return any(pod.accelerators for pod in self.pods)

    @property
    def let_go(self) -> int:
        """How many replicas may be missing by the strategy that git asks for, or KServe's own."""
        return self.asked.max_unavailable if self.asked else self.replicas * _DEFAULT_PERCENT // 100

    @property
    def failing(self) -> tuple[KubeObject, ...]:
        """Old pods that are not ready and go first, for there are more than have to be available: those of a rollout
        before this one. A Deployment ends none that it counts on, ready or not."""
        surplus = max(0, len(self.old) - (self.replicas - self.let_go))
        return tuple([pod for pod in self.old if not _is_ready(pod)][:surplus])

    @property
    def leaving(self) -> tuple[KubeObject, ...]:
        """Those of the old pods that go before a new one has to fit."""
        if self.spans_nodes or (self.asked is not None and self.asked.recreate):
            return self.old
        first = sorted(self.old, key=_is_ready)[:1]
        return (*self.failing, *(pod for pod in first if pod not in self.failing))


@dataclass(frozen=True, slots=True)
class Transition:
    """The way that was chosen.

    `strategy` is what to add as the predictor's deploymentStrategy, if anything. `text` tells people of it, with the
    outage to expect. `lacking` is why the new version has no room, or why what git asks for will not move. `left` is
    what is free once this rollout has what it needs.
    """

    way: Way
    left: ClusterRoom
    text: str = ""
    lacking: tuple[Reason, ...] = ()

    @property
    def strategy(self) -> Mapping[str, Any] | None:
        return _STRATEGIES.get(self.way)


def find_row(asked: RequestedStrategy, room: Room, count: Count) -> Row:
    """The row for these."""
    return next(row for row in TABLE if row.holds(asked, room, count))


def choose(r: ServiceChange, room: ClusterRoom) -> Transition:
    """The way of one service, where this much is free."""
    if not r.old:
        return Transition(Way.START, room.place(r.pods) or room if r.needs_devices else room)
    asked = RequestedStrategy.EXPLICIT if r.asked else RequestedStrategy.DEFAULT
    if r.mode != names.STANDARD or not r.needs_devices:
        return Transition(Way.OBEY if r.asked else Way.AS_IT_IS, room, _told(r))
    room = room.without(r.failing)
    found = room_for(room, r.pods, _others(r.leaving, r.failing))
    way = find_row(asked, found, count_of(r.replicas)).way
    if r.spans_nodes and found is Room.INSTEAD:
        # KServe gives workers a surge of 100 %, whatever the predictor asks for.
        way = Way.BLOCKED
    return Transition(way, _left(r, found, room), _text(r, way, found, room), _lacking(r, way, found, room))


def count_of(replicas: int) -> Count:
    """Kubernetes rounds what may be missing down."""
    if replicas <= 1:
        return Count.ONE
    return Count.MANY if replicas * _DEFAULT_PERCENT // 100 else Count.FEW


def start_seconds(pods: Iterable[KubeObject]) -> float | None:
    """How long the slowest of these pods took from its creation to be ready; None: none of them is."""
    took = []
    for pod in filter(_is_ready, pods):
        ready = next(each for each in pod["status"]["conditions"] if each.get("type") == "Ready")
        try:
            created = datetime.fromisoformat(pod["metadata"]["creationTimestamp"])
            took.append((datetime.fromisoformat(ready["lastTransitionTime"]) - created).total_seconds())
        except (KeyError, TypeError, ValueError):
            continue
    return max((each for each in took if each > 0), default=None)


def outage(r: ServiceChange) -> str:
    """How long a stop will hurt, from what starts took before; a figure that nobody measured is not given."""
    start = f"about {math.ceil(max(r.starts))} s, as before," if r.starts else "minutes (no start of it was seen yet)"
    return f"for at most {r.grace_seconds} s while the old pod ends, then {start} while the new one starts"


def _left(r: ServiceChange, found: Room, room: ClusterRoom) -> ClusterRoom:
    """A rollout in place of its own pods takes from others only what it needs more of."""
    if found is Room.BESIDE:
        return room.place(r.pods) or room
    return (room.without(_others(r.leaving, r.failing)).place(r.pods) or room) if found is Room.INSTEAD else room


def _others(pods: Sequence[KubeObject], known: Sequence[KubeObject]) -> list[KubeObject]:
    return [pod for pod in pods if pod not in known]


def _is_ready(pod: KubeObject) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(each.get("type") == "Ready" and each.get("status") == "True" for each in conditions)


# ---------------------------------------------------------------- what people read


def _text(r: ServiceChange, way: Way, found: Room, room: ClusterRoom) -> str:
    match way:
        case Way.RECREATE:
            return f"Recreate: no room for old and new ({lack(room, r.pods)}); nothing serves {outage(r)}"
        case Way.ONE_BY_ONE:
            serving = f"{r.replicas - 1} of {r.replicas} replicas serve"
            return f"RollingUpdate, maxSurge 0: no room for one more ({lack(room, r.pods)}); {serving} {outage(r)}"
        case Way.AS_IT_IS if found is Room.INSTEAD:
            return f"{_told(r)}; no room for one more, but {r.let_go} of {r.replicas} replicas go first"
        case Way.AS_IT_IS | Way.OBEY if found is Room.UNKNOWN:
            return f"{_told(r)}; whether one more has room is not known: {why_unknown(room, r.pods)}"
        case Way.BLOCKED:
            return f"not rolled out: {_why_blocked(r, found, room)}"
        case _:
            return _told(r)


def _told(r: ServiceChange) -> str:
    if r.asked is None:
        own = "RollingUpdate, 25% surge and 25% unavailable (KServe's default)"
        return own if r.mode == names.STANDARD else f"rolled out by {r.mode}"
    kind = "Recreate" if r.asked.recreate else "RollingUpdate"
    return f"{kind} (deploymentStrategy): maxSurge {r.asked.max_surge}, maxUnavailable {r.asked.max_unavailable}"


def _why_blocked(r: ServiceChange, found: Room, room: ClusterRoom) -> str:
    if found is Room.INSTEAD:
        text = "KServe starts all new workers before old ones end, so a rollout over several nodes needs its GPUs twice"
        return f"{text} ({lack(room, r.pods)}); set {names.STOP}, wait until its pods are gone, and take it away again"
    left = room.without(_others(r.leaving, r.failing))
    return f"{lack(left, r.pods)}, even once {_those(r.leaving)} gone"


def _those(pods: Sequence[KubeObject]) -> str:
    return "its old pod is" if len(pods) == 1 else "its old pods are"


def _lacking(r: ServiceChange, way: Way, found: Room, room: ClusterRoom) -> tuple[Reason, ...]:
    if way is Way.BLOCKED:
        text = _why_blocked(r, found, room)
    elif way is Way.OBEY and found is Room.INSTEAD and r.asked and not r.asked.max_unavailable:
        text = f"deploymentStrategy lets no replica go, and there is no room for one more: {lack(room, r.pods)}"
        text = f"{text}; the rollout waits until there is; allow maxUnavailable 1, or write type: Recreate"
    else:
        return ()
    whole = any(GPU in pod.accelerators for pod in r.pods)
    code = ReasonCode.INSUFFICIENT_GPU if whole else ReasonCode.INSUFFICIENT_ACCELERATOR
    return (Reason(code, text, r.origin),)
