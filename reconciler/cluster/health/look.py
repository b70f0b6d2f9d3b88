"""One service as it was seen at one time, and what can be said of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reconciler.cluster.health.fields import Condition, answered_at, count, edited_at, mapping, text
from reconciler.cluster.health.pods import PodState
from reconciler.cluster.health.problems import HealthLimits, Phase, Problem
from reconciler.cluster.health.workload import PREDICTOR, Workload, slowest
from reconciler.model import Health, HealthStatus, ReasonCode, progress
from reconciler.model.objects import KubeObject


@dataclass(frozen=True, slots=True)
class ServingHealth:
    """How a service stands.

    `generation` is the InferenceService's, and `is_acted_on` says whether all the rest is about it, or still about one
    before. `serving` counts replicas of any version that answer, `ready` those of the newest, `desired` how many there
    should be. `phase` is that of the replica that has come least far, and `since` when it came there or last made
    progress. `look_again_at` is when time alone may change the answer. `crashes` counts those of the newest version.
    `ready_since` is when the last of its replicas got ready. `pods` counts all that have not ended, those that are on
    their way out too. `give_up_at` is when what only the cluster can mend has lasted too long for a rollout.
    """

    health: Health
    generation: int = 0
    is_acted_on: bool = False
    serving: int = 0
    ready: int = 0
    desired: int = 0
    phase: Phase | None = None
    since: float | None = None
    look_again_at: float | None = None
    url: str = ""
    problem: Problem | None = None
    crashes: int = 0
    ready_since: float | None = None
    pods: int = 0
    give_up_at: float | None = None


@dataclass(frozen=True, slots=True)
class Expected:
    """What KServe should render of what was applied: the pod as git and its runtime tell it, and `added` arguments that
    follow. `since` is when it was applied."""

    pod: KubeObject
    added: tuple[str, ...]
    since: float


@dataclass(frozen=True, slots=True)
class Look:
    """One service as it was seen at one time."""

    service: KubeObject
    workloads: tuple[Workload, ...]
    own_events: tuple[KubeObject, ...]
    conditions: Mapping[str, Condition]
    generation: int
    edited_at: float
    now: float
    limits: HealthLimits
    pods: int = 0
    expected: Expected | None = None

    @property
    def annotations(self) -> KubeObject:
        return mapping(self.service, "metadata", "annotations")

    @property
    def predictor(self) -> Workload | None:
        """The Deployment of the model itself; a worker or a canary has a longer name."""
        found = [each for each in self.workloads if each.component in (PREDICTOR, "")]
        return min(found, key=lambda each: len(each.name), default=None)

    @property
    def serving(self) -> int:
        """A request passes through one replica of each component, of its stable Deployment or of its canary."""
        components = {each.component for each in self.workloads}
        found = [sum(each.serving for each in self.workloads if each.component == name) for name in components]
        return min(found, default=0)

    @property
    def is_answered(self) -> bool:
        """Has KServe looked at the service since it was edited? Its silence counts after a while: an edit that leaves
        the Deployment as it is changes nothing in the status."""
        if self.generation == 1 or self.waited >= self.limits.settle:
            return True
        if (answered_at(self.service) or 0.0) > self.edited_at:
            return True
        rendered = edited_at(self.predictor.deployment) if self.predictor else None
        is_current = count(self.service, "status", "observedGeneration") == self.generation
        return is_current and rendered is not None and rendered >= self.edited_at

    @property
    def waited(self) -> float:
        """Seconds since the service was edited. A time in the future was just now."""
        return max(0.0, self.now - self.edited_at)


def verdict(look: Look, status: HealthStatus, code: ReasonCode, message: str, **more: Any) -> ServingHealth:
    predictor = look.predictor
    state = slowest(predictor.newest) if predictor else None
    known: dict[str, Any] = {
        "generation": look.generation,
        "serving": look.serving,
        "ready": predictor.ready if predictor else 0,
        "desired": predictor.desired if predictor else 0,
        "phase": _phase(predictor, state),
        "since": state.since if state else None,
        "url": text(look.service, "status", "url"),
        "pods": look.pods,
        "crashes": sum(each.crashes for each in look.workloads),
    }
    return ServingHealth(Health(status, progress(code, message)), **(known | more))


def _phase(predictor: Workload | None, state: PodState | None) -> Phase | None:
    if state:
        return state.phase
    return Phase.READY if predictor and predictor.newest else None


def degraded(look: Look, problem: Problem, **more: Any) -> ServingHealth:
    said = problem.message + _still_serving(look)
    return verdict(look, HealthStatus.DEGRADED, problem.code, said, problem=problem, **more)


def progressing(look: Look, code: ReasonCode, message: str, **more: Any) -> ServingHealth:
    return verdict(look, HealthStatus.PROGRESSING, code, message + _still_serving(look), **more)


def _still_serving(look: Look) -> str:
    """A failed update does not stop the version before."""
    predictor = look.predictor
    if not predictor or not look.serving:
        return ""
    if predictor.older_ready:
        return f"; the version before still serves with {_replicas(predictor.older_ready)}"
    return f"; {_replicas(look.serving)} serve{'s' if look.serving == 1 else ''}"


def _replicas(number: int) -> str:
    return f"{number} replica" + ("" if number == 1 else "s")
