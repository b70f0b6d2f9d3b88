"""The ordered outcome of comparing, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from reconciler.model.actions import Action
from reconciler.model.approvals import JudgedDeletions
from reconciler.model.cluster import ObjectPlan
from reconciler.model.health import Health, Sync
from reconciler.model.holds import Holds
from reconciler.model.names import Bug, Reason, ServiceId
from reconciler.model.objects import ObjectId
from reconciler.model.observed import Quarantine


@dataclass(frozen=True, slots=True)
class ServicePlan:
    """What the plan says of one service.

    `step` is what happens to it now, in one line. `strategy` says how a rollout will go and why. `blocked` lists all
    reasons that keep it from starting. `rejected` is the quarantine that keeps git's digest from being tried. `kept`
    says why it stays though git does not show it, or not for this target. `outdated` says what of the config changed
    since what runs was started, or that a restart was asked for. `applied` is the digest of what a cluster was told
    last, as far as that is still there.
    """

    service: ServiceId
    sync: Sync
    health: Health
    step: str = ""
    strategy: str = ""
    blocked: tuple[Reason, ...] = ()
    rejected: Quarantine | None = None
    kept: Reason | None = None
    outdated: tuple[str, ...] = ()
    applied: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """Ordered outcome of comparing.

    `look_again_at` is when time alone may change the answer; None: only events. `looks` says so by service.
    `holds` is what it had to respect. `deletions` are those that are due, held or not. `objects` says what the plan
    says of each object of a cluster.
    """

    target: str
    revision: str
    at: float
    actions: tuple[Action, ...] = ()
    verdicts: Mapping[ServiceId, ServicePlan] = field(default_factory=dict)
    look_again_at: float | None = None
    notes: tuple[Reason, ...] = ()
    looks: Mapping[ServiceId, float] = field(default_factory=dict)
    bugs: tuple[Bug, ...] = ()
    holds: Holds = field(default_factory=Holds)
    deletions: JudgedDeletions = field(default_factory=JudgedDeletions)
    objects: Mapping[ObjectId, ObjectPlan] = field(default_factory=dict)


class Outcome(StrEnum):
    """What became of an action."""

    DONE = "Done"
    FAILED = "Failed"
    SKIPPED = "Skipped"


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one action. `error` says why it failed or was skipped.

    `blames_spec`: what git asks for is at fault, and not the host.
    """

    action: Action
    outcome: Outcome
    error: str = ""
    retryable: bool = True
    seconds: float = 0.0
    blames_spec: bool = False


@dataclass(frozen=True, slots=True)
class FailedAction:
    """An action that failed, `tries` times in a row, and has not succeeded since.

    `services` are those that it holds up; none: it is about the proxy, or the host. `subject` tells actions of one name
    apart: a start's is the digest. `lasting`: another try soon is of no use. `run` is the run of a replica that failed
    on trial.
    """

    action: str
    subject: str
    services: tuple[ServiceId, ...]
    error: str
    at: float
    tries: int = 1
    lasting: bool = False
    blames_spec: bool = False
    run: str = ""
