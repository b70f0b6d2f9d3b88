"""A plan as data: one document, `reconciler.host.plan/v2`, with what each service will do next and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from reconciler.fault_isolation import caught
from reconciler.model import Action, ClusterView, DesiredState, ObjectChange, Observed, Plan, ReasonCode, Unreachable
from reconciler.report.actions import action_name, services_of, subject_of
from reconciler.report.convergence import fault, full_name, is_elsewhere, is_fine, other_objects
from reconciler.report.planned_changes import changes_of, gpus_then
from reconciler.report.redact import scrub_text
from reconciler.report.status import Document

SCHEMA = "reconciler.host.plan/v2"
Planned = tuple[DesiredState, Observed | ClusterView | Unreachable, Plan]


def plan_document(status: Document, plans: Sequence[Planned]) -> Document:
    """The planned actions for the state that `status` describes. Specs are left out: they may hold secrets."""
    known = {each[2].target: each for each in plans}
    targets = [_target(target, known.get(target["name"])) for target in status["targets"]]
    return {"schema": SCHEMA, "revision": status["revision"], "targets": targets, "counts": _counts(status, targets)}


class PlannedChange(StrEnum):
    """What happens to a service, as the plan's document calls it."""

    CREATE = "create"
    CHANGE = "change"
    DELETE = "delete"
    WAIT = "wait"
    BLOCKED = "blocked"
    REJECTED = "rejected"
    KEEP = "keep"
    ELSEWHERE = "elsewhere"
    NONE = "none"
    SUSPENDED = "suspended"


FAULTS = (PlannedChange.BLOCKED, PlannedChange.REJECTED, PlannedChange.KEEP)
"""What git asks for and does not get."""


def has_faults(plan: Document) -> bool:
    """Does git ask for anything that will not happen: refused, rejected, Blocked or unusable?"""
    return any(
        not target["reachable"]
        or target["unreadable"]
        or target["refused"]
        or any(service["change"] in FAULTS for service in target["services"])
        or any(one["reasons"] for one in target["objects"])
        for target in plan["targets"]
    )


def _target(target: Document, planned: Planned | None) -> Document:
    desired, observed, plan = planned or (None, None, None)
    actions = plan.actions if plan else ()
    differences = changes_of(desired, observed) if desired else {}
    gpus = gpus_then(desired.services) if desired else {}
    more = _More({str(one): found for one, found in differences.items()}, {str(one): n for one, n in gpus.items()})
    by_service: dict[str, list[Document]] = {}
    for action in actions:
        for service in services_of(action):
            by_service.setdefault(str(service), []).append(_action(action))
    return {
        **{
            key: target[key]
            for key in (
                "name",
                "kind",
                "reachable",
                "reason",
                "revision",
                "suspended",
                "cordoned",
                "drained",
                "deletions",
                "unreadable",
                "refused",
                "notes",
            )
        },
        "gpus": target["gpus"],
        "actions": [_action(action) for action in actions],
        "objects": [one for one in target["objects"] if one["change"] != ObjectChange.NONE or one["reasons"]],
        "services": [_service_safely(one, by_service.get(full_name(one), []), more) for one in target["services"]],
    }


def _action(action: Action) -> Document:
    return {
        "action": action_name(action),
        "subject": subject_of(action),
        "services": [str(service) for service in services_of(action)],
        "reason": scrub_text(action.reason),
    }


_KEPT = (
    "namespace",
    "name",
    "displayName",
    "inGit",
    "origin",
    "sync",
    "health",
    "suspended",
    "strategy",
    "step",
    "outdated",
    "digest",
    "liveDigest",
    "blocked",
    "rejected",
    "kept",
    "problems",
    "warnings",
    "ready",
    "fit",
)


@dataclass(frozen=True, slots=True)
class _More:
    """What the status does not tell, by the name of the service."""

    differences: Mapping[str, list[Document]]
    gpus: Mapping[str, float]


# These leave what runs as it is.
_SAME_GPUS = (
    PlannedChange.BLOCKED,
    PlannedChange.REJECTED,
    PlannedChange.KEEP,
    PlannedChange.SUSPENDED,
    PlannedChange.NONE,
)


def _service_safely(service: Document, actions: list[Document], more: _More) -> Document:
    """A service that raises is shown by its name and the error; the others are shown in full."""
    try:
        return _service(service, actions, more)
    except Exception as error:
        reason, _ = caught(error, f"reporting the plan of {full_name(service)}")
        kept = {key: service[key] for key in _KEPT}
        kept |= {"change": PlannedChange.KEEP, "headline": reason.message, "actions": actions}
        return kept | {"differences": [], "gpus": {"now": service["gpus"], "then": service["gpus"]}}


def _service(service: Document, actions: list[Document], more: _More) -> Document:
    """`gpus`: how many it has now, and once all is as git wants it."""
    change, name, now = _change(service, actions), full_name(service), service["gpus"]
    return {key: service[key] for key in _KEPT} | {
        "change": change,
        "headline": _headline(service, change),
        "actions": actions,
        "differences": more.differences.get(name, []),
        "gpus": {"now": now, "then": now if change in _SAME_GPUS else more.gpus.get(name, 0)},
    }


def _change(service: Document, actions: list[Document]) -> PlannedChange:
    if service["problems"] or service["kept"] or service["health"]["reason"] == ReasonCode.INTERNAL_ERROR:
        return PlannedChange.KEEP
    if service["rejected"]:
        # Its next steps, if any, roll back to what served before.
        return PlannedChange.REJECTED
    if service["blocked"]:
        return PlannedChange.BLOCKED
    if service["suspended"]:
        return PlannedChange.SUSPENDED
    if not service["inGit"]:
        return PlannedChange.DELETE if actions else PlannedChange.KEEP
    if not actions:
        if is_elsewhere(service):
            return PlannedChange.ELSEWHERE
        return PlannedChange.NONE if is_fine(service) else PlannedChange.WAIT
    return PlannedChange.CHANGE if service["replicas"] else PlannedChange.CREATE


def _headline(service: Document, change: PlannedChange) -> str:
    if change in FAULTS or change is PlannedChange.SUSPENDED:
        return fault(service) or str(service["health"]["message"])
    parts = dict.fromkeys((*service["outdated"], service["strategy"], service["step"]))
    return "; ".join(filter(None, parts)) or str(service["health"]["message"])


def _counts(status: Document, targets: Iterable[Document]) -> dict[str, int]:
    changes = [one["change"] for target in targets for one in target["services"]]
    return {
        "actions": sum(len(target["actions"]) for target in targets),
        "services": len(changes),
        "objects": sum(len(other_objects(target)) for target in status["targets"]),
        **{
            change: changes.count(change)
            for change in PlannedChange
            if change not in (PlannedChange.NONE, PlannedChange.SUSPENDED)
        },
        "unchanged": changes.count(PlannedChange.NONE) + changes.count(PlannedChange.SUSPENDED),
    }
