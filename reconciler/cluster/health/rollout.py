"""Is the rollout of what git says over, and how did it end? Pure. By it a plan promotes, rolls back and quarantines."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from reconciler.cluster.health.look import ServingHealth
from reconciler.cluster.health.problems import Fault, HealthLimits
from reconciler.model import HealthStatus, Reason


class RolloutState(StrEnum):
    """How far a rollout is."""

    UNDER_WAY = "UnderWay"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    IDLE = "Idle"  # no replica is asked for, so nothing can prove itself
    UNKNOWN = "Unknown"


@dataclass(frozen=True, slots=True)
class RolloutStatus:
    """How the rollout of a service's newest version stands.

    `fault` is whose fault a failure is: the commit's is quarantined, the cluster's is waited out. `look_again_at` is
    when time alone may change the answer.
    """

    state: RolloutState
    reason: Reason
    fault: Fault | None = None
    look_again_at: float | None = None

    @property
    def is_quarantined(self) -> bool:
        """Trying the same version again would fail again."""
        return self.state is RolloutState.FAILED and self.fault is Fault.COMMIT


def rollout_outcome(health: ServingHealth, now: float, limits: HealthLimits, *, proven: bool = False) -> RolloutStatus:
    """How a rollout stands. `proven`: the version was promoted before, so that what fails now is an incident."""
    reason = health.health.reason
    match health.health.phase:
        case HealthStatus.UNKNOWN | HealthStatus.MISSING:
            return RolloutStatus(RolloutState.UNKNOWN, reason)
        case HealthStatus.SUSPENDED:
            return RolloutStatus(RolloutState.IDLE, reason)
    crash = health.problem if health.problem and health.problem.fault is Fault.COMMIT else None
    if crash and not proven and health.crashes >= limits.crashes:
        return RolloutStatus(RolloutState.FAILED, Reason(crash.code, crash.message, reason.origin), Fault.COMMIT)
    if health.health.phase is HealthStatus.DEGRADED:
        return _degraded(health, now, proven=proven)
    if health.health.phase is not HealthStatus.HEALTHY:
        return RolloutStatus(RolloutState.UNDER_WAY, reason, look_again_at=health.look_again_at)
    due = (now if health.ready_since is None else health.ready_since) + limits.min_ready
    if due <= now or proven:
        return RolloutStatus(RolloutState.SUCCEEDED, reason)
    return RolloutStatus(RolloutState.UNDER_WAY, reason, look_again_at=due)


def _degraded(health: ServingHealth, now: float, *, proven: bool) -> RolloutStatus:
    """A commit's fault is final; for the cluster's there is some patience."""
    reason = health.health.reason
    fault = Fault.CLUSTER if proven or health.problem is None else health.problem.fault
    if fault is Fault.CLUSTER and health.give_up_at is not None and now < health.give_up_at:
        return RolloutStatus(RolloutState.UNDER_WAY, reason, look_again_at=health.give_up_at)
    return RolloutStatus(RolloutState.FAILED, reason, fault)
