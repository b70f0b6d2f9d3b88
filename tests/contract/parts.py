"""What tests of both wings say of git, and read of plans."""

from __future__ import annotations

from dataclasses import replace

from reconciler.model import Desired, DesiredState, Origin, Plan, Reason, ReasonCode, ServiceId
from tests.support.simulation import wanted

BROKEN = Reason(ReasonCode.INVALID_YAML, "mapping values are not allowed here", Origin("a.yaml", 3))


def unusable(name: str) -> Desired:
    return replace(wanted(name, "good2"), spec=None, digest="", problems=(BROKEN,))


def reasons(plan: Plan, git: DesiredState, service: ServiceId) -> list[Reason]:
    """Why it is not as git says, as people are told."""
    found = plan.verdicts[service]
    rejected = (found.rejected.reason,) if found.rejected else ()
    problems = [each for one in git.services if one.id == service for each in one.problems]
    kept = (found.kept,) if found.kept else ()
    return [*problems, *kept, *rejected, *found.blocked, found.health.reason]
