"""A target that is a Kubernetes cluster as data, with the keys of a host's services where they mean the same. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from reconciler.model import (
    EVERYTHING,
    ClusterView,
    Desired,
    Health,
    HealthStatus,
    ObjectChange,
    ObjectPlan,
    Outcome,
    Plan,
    PodFacts,
    ReasonCode,
    ServiceFacts,
    ServiceId,
    ServicePlan,
    Sync,
    Unreachable,
    host_reason,
    progress,
)
from reconciler.report.actions import action_name, services_of
from reconciler.report.kserve_status import UNKNOWN
from reconciler.report.redact import scrub_text
from reconciler.report.requests import RequestCounts
from reconciler.report.status_parts import (
    Document,
    TargetReport,
    last_failure,
    manual_document,
    reason_document,
    rejected_document,
    requests_document,
    timestamp,
)

_NOTHING = ServiceFacts()


def gpus_of_cluster(view: ClusterView | None) -> Document:
    """Nodes' devices have no names of their own."""
    if view is None or view.gpus is None:
        return {"total": None, "leased": None, "devices": []}
    return {"total": view.gpus, "leased": view.gpus - (view.free_gpus or 0), "devices": []}


def cluster_services(report: TargetReport, view: ClusterView | None) -> list[Document]:
    """Every service that git names, that is ours, or that runs."""
    desired = {one.id: one for one in report.desired.services} if report.desired else {}
    verdicts = report.plan.verdicts if report.plan and view else {}
    facts = view.services if view else {}
    ids = sorted(desired.keys() | verdicts.keys() | facts.keys())
    return [_service(one, desired.get(one), verdicts.get(one), facts.get(one, _NOTHING), report) for one in ids]


def _service(
    service: ServiceId, desired: Desired | None, verdict: ServicePlan | None, facts: ServiceFacts, report: TargetReport
) -> Document:
    health = verdict.health if verdict else _unknown(report)
    suspended = bool({EVERYTHING, str(service)} & report.suspended)
    asked = report.suspensions
    return {
        "namespace": service.namespace,
        "name": service.name,
        "displayName": desired.display_name if desired else "",
        "dashboard": desired.dashboard if desired else True,
        "inGit": desired is not None,
        "origin": str(desired.origin if desired else facts.origin or ""),
        "sync": (verdict.sync if verdict else Sync.UNKNOWN).value,
        "health": {
            "status": health.phase.value,
            "reason": health.reason.code,
            "message": scrub_text(str(health.reason)),
        },
        "suspended": suspended,
        "suspension": manual_document(asked.get(str(service)) or asked.get(EVERYTHING)),
        "step": verdict.step if verdict else "",
        "strategy": verdict.strategy if verdict else "",
        "outdated": list(verdict.outdated) if verdict else [],
        "digest": desired.digest if desired else "",
        "liveDigest": facts.live_digest,
        "canary": None,
        "blocked": [reason_document(one) for one in (verdict.blocked if verdict else ())],
        "rejected": rejected_document(verdict.rejected) if verdict and verdict.rejected else None,
        "kept": reason_document(verdict.kept) if verdict and verdict.kept else None,
        "problems": [reason_document(one) for one in (desired.problems if desired else ())],
        "warnings": [reason_document(one) for one in (desired.warnings if desired else ())],
        "lastError": _last_error(service, report),
        "ready": f"{facts.ready}/{facts.desired}",
        "lastFailure": last_failure(report.failures, service),
        "gpus": facts.gpus,
        "requests": requests_document(RequestCounts()),
        "fit": None,
        "staging": [],
        "replicas": [_pod(one, facts) for one in facts.pods],
        "endpoints": {"host": facts.url, "path": "", "model": ""},
        **UNKNOWN,
        "url": facts.url,
        "conditions": list(facts.status.get("conditions") or ()),
        "modelStatus": dict(facts.status.get("modelStatus") or {}),
        "metricsPath": None,
    }


def _pod(pod: PodFacts, facts: ServiceFacts) -> Document:
    return {
        "id": pod.name,
        "phase": pod.phase,
        "digest": facts.live_digest if pod.ready else "",
        "canary": False,
        "port": None,
        "socket": "",
        "tls": False,
        "gpus": [],
        "gpuFraction": None,
        "image": "",
        "inFlight": None,
        "unresponsive": scrub_text(pod.message),
        "routed": "Active" if pod.ready else "Absent",
        "exitCode": None,
        "since": timestamp(pod.since),
        "node": pod.node,
    }


def cluster_objects(report: TargetReport) -> list[Document]:
    """Every object that git names or that is ours, services among them."""
    return [object_document(one) for _, one in sorted(report.plan.objects.items())] if report.plan else []


def changed_objects(plan: Plan, service: str | None) -> list[Document]:
    """Those that differ from git; of one service, or of all."""
    found = (one for _, one in sorted(plan.objects.items()) if service in (None, str(one.service)))
    return [object_document(one) for one in found if one.change is not ObjectChange.NONE or one.reasons]


def object_document(one: ObjectPlan) -> Document:
    """One object as data. `lines` are its differences."""
    return {
        "group": one.object.group,
        "kind": one.object.kind,
        "namespace": one.object.namespace,
        "name": one.object.name,
        "service": str(one.service) if one.service else None,
        "origin": str(one.origin or ""),
        "sync": one.sync.value,
        "health": {
            "status": one.health.phase.value,
            "reason": one.health.reason.code,
            "message": scrub_text(str(one.health.reason)),
        },
        "change": one.change.value,
        "why": scrub_text(one.why),
        "differences": [scrub_text(line) for line in one.lines],
        "reasons": [reason_document(reason) for reason in one.reasons],
    }


def _unknown(report: TargetReport) -> Health:
    if isinstance(report.observed, Unreachable):
        return Health(HealthStatus.UNKNOWN, host_reason(ReasonCode.TARGET_UNREACHABLE, report.observed.reason))
    return Health(HealthStatus.UNKNOWN, progress(ReasonCode.NOT_YET_OBSERVED, "no pass has looked at it yet"))


def _last_error(service: ServiceId, report: TargetReport) -> str:
    failed: Sequence[str] = [
        f"{action_name(one.action)} failed: {one.error}"
        for one in report.last_results
        if one.outcome is Outcome.FAILED and service in services_of(one.action)
    ]
    return scrub_text(failed[-1]) if failed else ""
