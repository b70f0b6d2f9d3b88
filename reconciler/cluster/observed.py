"""What a cluster answered, at one time, with what we remember of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from reconciler.cluster.health.children import Children
from reconciler.cluster.health.look import ServingHealth
from reconciler.cluster.objects.compare import Applied
from reconciler.cluster.objects.inventory import ClusterInventory
from reconciler.cluster.rollout.additions import NO_ADDITIONS, Additions
from reconciler.cluster.rollout.last_good import ServiceRecord
from reconciler.kserve.names import GROUP, RUNTIME_KINDS
from reconciler.model import (
    ClusterView,
    DesiredObject,
    KubeObject,
    ObjectChange,
    ObjectId,
    Preflight,
    Reason,
    ReasonCode,
    ServiceId,
    host_reason,
    progress,
)

NO_CHILDREN = Children()
SERVICE = (GROUP, "InferenceService")
RUNTIMES = tuple((GROUP, kind) for kind in RUNTIME_KINDS)


@dataclass(frozen=True, slots=True)
class EngineAnswers:
    """What engines said of versions, by digest: verdicts, which flags of ours they do not know, which are awaited, and
    why there is none (yet). `mute` are those of which no engine will ever say more: git does not tell what runs, or it
    is no vLLM."""

    preflights: Mapping[str, Preflight] = field(default_factory=dict)
    lacks: Mapping[str, frozenset[str]] = field(default_factory=dict)
    asking: frozenset[str] = frozenset()
    troubles: Mapping[str, Reason] = field(default_factory=dict)
    mute: frozenset[str] = frozenset()


NO_ANSWERS = EngineAnswers()


@dataclass(frozen=True, slots=True)
class Remembered:
    """What is remembered of an object that we applied, what we added to it, and when: seconds since the epoch."""

    applied: Applied
    additions: Additions = NO_ADDITIONS
    at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterObserved(ClusterView):
    """`wanted` are git's objects where they belong: each with its namespace, if its kind has one.

    `live` are the objects of the kinds that matter. `absent` are kinds, by group and name, that the API server does
    not serve (yet), and `unknown` those of which nobody can say what there is, with the reason; the `pending` of them
    are about to be listed for the first time. `is_leader`: no other daemon acts on this cluster for this target; else
    `leader` says which. `refusals` are what the API server and webhooks said when they were asked, by object and the
    hash of what would be applied; `answers` what engines said. `speechless` says of services that have not proved
    themselves why no token comes back; empty: one does. A service that is not in it was not asked. The API server's
    clock is `skew` seconds ahead of ours; `at` is by ours.
    """

    wanted: tuple[DesiredObject, ...]
    live: Mapping[ObjectId, KubeObject]
    inventory: ClusterInventory
    absent: frozenset[tuple[str, str]] = frozenset()
    unknown: Mapping[tuple[str, str], str] = field(default_factory=dict)
    pending: frozenset[tuple[str, str]] = frozenset()
    skew: float = 0.0
    remembered: Mapping[ObjectId, Remembered] = field(default_factory=dict)
    records: Mapping[ServiceId, ServiceRecord] = field(default_factory=dict)
    health: Mapping[ServiceId, ServingHealth] = field(default_factory=dict)
    children: Mapping[ServiceId, Children] = field(default_factory=dict)
    nodes: tuple[KubeObject, ...] = ()
    pods: tuple[KubeObject, ...] = ()
    refusals: Mapping[tuple[ObjectId, str], tuple[Reason, ...]] = field(default_factory=dict)
    answers: EngineAnswers = NO_ANSWERS
    speechless: Mapping[ServiceId, str] = field(default_factory=dict)
    is_leader: bool = True
    leader: str = ""

    @property
    def clock(self) -> float:
        """When it was observed, by the API server's clock: its objects' times are by that one."""
        return self.at + self.skew

    def unseen(self, one: ObjectId) -> tuple[ObjectChange, Reason] | None:
        """What is done about an object of which nobody can say whether it is there, and why; None: it can be seen.

        Until its kind was listed for the first time, that is only waited for.
        """
        why = self.unknown.get((one.group, one.kind))
        if why is None:
            return None
        if (one.group, one.kind) in self.pending:
            return ObjectChange.WAIT, progress(ReasonCode.NOT_YET_OBSERVED, why)
        return ObjectChange.KEEP, host_reason(ReasonCode.TARGET_UNREACHABLE, why)
