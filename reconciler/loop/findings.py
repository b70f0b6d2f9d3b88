"""Why a service is out of sync after a commit: the history reports each change of it once. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from reconciler.fault_isolation import Faults
from reconciler.model import Desired, DesiredState, Plan, Reason, ReasonCode, ServiceId, ServicePlan

_NUMBER = re.compile(r"\d+(?:\.\d+)?")


@dataclass(frozen=True, slots=True)
class CommitEvent:
    """One event. Two with equal `key` are the same to a reader; `by_action`: an action reports it already."""

    event: str
    message: str
    key: str
    by_action: bool = False


def finding(event: str, message: str) -> CommitEvent:
    """Texts that differ in their figures only, of free memory or of seconds, are the same to a reader."""
    return CommitEvent(event, message, f"{event} {_NUMBER.sub('#', message)}")


def findings(desired: DesiredState, plan: Plan, faults: Faults) -> dict[ServiceId, CommitEvent]:
    """By service: what keeps it out of sync. An exception of one is noted in `faults`."""
    unusable = {one.id: one for one in desired.services if one.problems}
    found: dict[ServiceId, CommitEvent] = {}
    for key, verdict in plan.verdicts.items():
        # Most services have none of these, in most passes.
        if unusable or verdict.kept or verdict.rejected or verdict.blocked or _is_bug(verdict):
            try:
                each = _finding(unusable.get(key), verdict, desired.revision)
            except Exception as error:
                each = _joined("internal_error", (faults.note(key, error),))
            if each is not None:
                found[key] = each
    return found


def _finding(unusable: Desired | None, verdict: ServicePlan, revision: str) -> CommitEvent | None:
    if unusable is not None:
        return _joined("unusable", unusable.problems)
    if verdict.kept is not None:
        return _joined("kept", (verdict.kept,))
    if (refused := verdict.rejected) is not None:
        digest = refused.digest.removeprefix("sha256:")[:8]
        text = f"{digest} failed before, at {refused.revision[:8]}: {refused.reason}"
        return CommitEvent("rejected", text, f"rejected {refused.digest}", by_action=refused.revision == revision)
    if _is_bug(verdict):
        return _joined("internal_error", (verdict.health.reason,))
    return _joined("blocked", verdict.blocked) if verdict.blocked else None


def _is_bug(verdict: ServicePlan) -> bool:
    return verdict.health.reason.code is ReasonCode.INTERNAL_ERROR


def _joined(event: str, reasons: Iterable[Reason]) -> CommitEvent:
    return finding(event, "; ".join(map(str, reasons)))
