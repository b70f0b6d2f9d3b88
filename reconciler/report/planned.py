"""A plan as data: one document, `reconciler.host.plan/v2`, with what each service will do next and why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from reconciler.fault_isolation import caught
from reconciler.model import Action, DesiredState, Observed, Plan, ReasonCode, Unreachable
from reconciler.report.actions import action_name, services_of, subject_of
from reconciler.report.convergence import fault, full_name, is_elsewhere, is_fine
from reconciler.report.redact import scrub_text
from reconciler.report.status import Document

SCHEMA = "reconciler.host.plan/v2"
_FAULTS = ("blocked", "rejected", "keep")
Planned = tuple[DesiredState, Observed | Unreachable, Plan]


def plan_document(status: Document, plans: Sequence[Planned]) -> Document:
    """The planned actions for the state that `status` describes. Specs are left out: they may hold secrets."""
    actions = {plan.target: plan.actions for _, _, plan in plans}
    targets = [_target(target, actions.get(target["name"], ())) for target in status["targets"]]
    return {"schema": SCHEMA, "revision": status["revision"], "targets": targets, "counts": _counts(targets)}


def has_faults(plan: Document) -> bool:
    """Does git ask for anything that will not happen: refused, rejected, Blocked or unusable?"""
    return any(
        not target["reachable"]
        or target["unreadable"]
        or target["refused"]
        or any(service["change"] in _FAULTS for service in target["services"])
        for target in plan["targets"]
    )


def _target(target: Document, actions: Sequence[Action]) -> Document:
    by_service: dict[str, list[Document]] = {}
    for action in actions:
        for service in services_of(action):
            by_service.setdefault(str(service), []).append(_action(action))
    return {
        **{
            key: target[key]
            for key in (
                "name",
                "reachable",
                "reason",
                "revision",
                "suspended",
                "cordoned",
                "drained",
                "unreadable",
                "refused",
                "notes",
            )
        },
        "gpus": target["gpus"],
        "actions": [_action(action) for action in actions],
        "services": [_service_safely(one, by_service.get(full_name(one), [])) for one in target["services"]],
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


def _service_safely(service: Document, actions: list[Document]) -> Document:
    """A service that raises is shown by its name and the error; the others are shown in full."""
    try:
        return _service(service, actions)
    except Exception as error:
        reason, _ = caught(error, f"reporting the plan of {full_name(service)}")
        kept = {key: service[key] for key in _KEPT}
        return kept | {"change": "keep", "headline": reason.message, "actions": actions}


def _service(service: Document, actions: list[Document]) -> Document:
    verb = _verb(service, actions)
    return {key: service[key] for key in _KEPT} | {
        "change": verb,
        "headline": _headline(service, verb),
        "actions": actions,
    }


def _verb(service: Document, actions: list[Document]) -> str:
    """What happens to a service, as the status document calls it."""
    if service["problems"] or service["kept"] or service["health"]["reason"] == ReasonCode.INTERNAL_ERROR:
        return "keep"
    if service["rejected"]:
        # Its next steps, if any, roll back to what served before.
        return "rejected"
    if service["blocked"]:
        return "blocked"
    if service["suspended"]:
        return "suspended"
    if not service["inGit"]:
        return "delete" if actions else "keep"
    if not actions:
        if is_elsewhere(service):
            return "elsewhere"
        return "none" if is_fine(service) else "wait"
    return "change" if service["replicas"] else "create"


def _headline(service: Document, verb: str) -> str:
    if verb in ("keep", "rejected", "blocked", "suspended"):
        return fault(service) or str(service["health"]["message"])
    parts = dict.fromkeys((*service["outdated"], service["strategy"], service["step"]))
    return "; ".join(filter(None, parts)) or str(service["health"]["message"])


def _counts(targets: Iterable[Document]) -> dict[str, int]:
    changes = [one["change"] for target in targets for one in target["services"]]
    return {
        "actions": sum(len(target["actions"]) for target in targets),
        "services": len(changes),
        **{
            word: changes.count(word)
            for word in ("create", "change", "delete", "wait", "blocked", "rejected", "keep", "elsewhere")
        },
        "unchanged": changes.count("none") + changes.count("suspended"),
    }
