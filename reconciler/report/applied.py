"""Has a target applied a revision as far as possible, and which services hold it up? Pure.

By this the recorder decides when a revision counts as applied; the status document shows the current state.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from reconciler.fault_isolation import caught
from reconciler.model import (
    NO_ORIGIN,
    ClusterView,
    Desired,
    DesiredState,
    HealthStatus,
    Observed,
    Plan,
    Reason,
    ReasonCode,
    ServiceId,
    ServicePlan,
    Sync,
    Unreachable,
)


@dataclass(frozen=True, slots=True)
class HoldUp:
    """What keeps a revision from being applied completely until git, a person or the host changes.

    `service` is None for a file that may name any service, and where the whole host is drained manually.
    """

    service: ServiceId | None
    reason: Reason


def holds_up(desired: DesiredState, plan: Plan) -> tuple[HoldUp, ...]:
    """Everything that holds up the revision permanently: first what concerns all services, then services by name."""
    # What cannot be read may be refused as well.
    whole = filter(None, dict.fromkeys((plan.holds.drained_by_hand, *desired.unreadable, *desired.refused)))
    objects = (reason for one in plan.objects.values() if one.service is None for reason in one.reasons)
    return (*(HoldUp(None, reason) for reason in (*whole, *objects)), *_services(desired, plan))


def is_applied(desired: DesiredState, observed: Observed | ClusterView | Unreachable, plan: Plan) -> bool:
    """Is everything in sync that can be? Never while everything is suspended or drained manually."""
    if isinstance(observed, Unreachable) or plan.actions or plan.holds.drained_by_hand:
        return False
    verdicts = plan.verdicts.values()
    if verdicts and all(_is_suspended(verdict) for verdict in verdicts):
        return False
    if any(one.service is None and one.sync is not Sync.SYNCED and not one.reasons for one in plan.objects.values()):
        return False
    held = {one.service for one in _services(desired, plan)}
    return all(verdict.sync is Sync.SYNCED or verdict.service in held for verdict in verdicts)


def _services(desired: DesiredState, plan: Plan) -> Iterator[HoldUp]:
    stopped = [
        (service, verdict)
        for service, verdict in plan.verdicts.items()
        if verdict.sync is not Sync.SYNCED and verdict.health.phase is not HealthStatus.PROGRESSING
    ]
    wanted: dict[ServiceId, Desired] = {one.id: one for one in desired.services} if stopped else {}
    for service, verdict in sorted(stopped, key=lambda one: one[0]):
        if reason := _why_safely(service, wanted.get(service), verdict):
            yield HoldUp(service, reason)


def _why_safely(service: ServiceId, desired: Desired | None, verdict: ServicePlan) -> Reason | None:
    try:
        return _why(desired, verdict)
    except Exception as error:
        return caught(error, f"checking whether {service} is applied", desired.origin if desired else NO_ORIGIN)[0]


def _why(desired: Desired | None, verdict: ServicePlan) -> Reason | None:
    """None: it is progressing."""
    if _is_suspended(verdict):
        return verdict.health.reason
    if verdict.kept or desired is None:
        return verdict.kept
    if desired.problems:
        return desired.problems[0]
    if verdict.rejected:
        return Reason(ReasonCode.REJECTED, verdict.rejected.reason.message, verdict.rejected.reason.origin)
    if verdict.blocked:
        return verdict.blocked[0]
    if verdict.health.reason.code is ReasonCode.INTERNAL_ERROR:
        return verdict.health.reason
    is_stuck = verdict.health.phase is HealthStatus.DEGRADED and not verdict.strategy and not _is_replaced(verdict)
    return verdict.health.reason if is_stuck else None


def _is_replaced(verdict: ServicePlan) -> bool:
    """A hung replica is replaced by itself."""
    return verdict.health.reason.code in (ReasonCode.SILENT, ReasonCode.HUNG)


def _is_suspended(verdict: ServicePlan) -> bool:
    return verdict.health.reason.code is ReasonCode.SUSPENDED
