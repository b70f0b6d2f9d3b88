"""A target that is a Kubernetes cluster as data, with the keys of a host's services where they mean the same. Pure."""

from __future__ import annotations

from reconciler.model import (
    ClusterView,
    Desired,
    ObjectChange,
    ObjectPlan,
    Plan,
    PodFacts,
    ServiceFacts,
    ServiceId,
    ServicePlan,
)
from reconciler.report.kserve_status import UNKNOWN
from reconciler.report.redact import scrub_text
from reconciler.report.requests import RequestCounts
from reconciler.report.stages import stages_document
from reconciler.report.status_parts import (
    Document,
    TargetReport,
    described,
    failures_of,
    health_document,
    last_failure,
    promoted_document,
    reason_document,
    rejected_document,
    requests_document,
    timestamp,
)

_NOTHING = ServiceFacts()


def gpus_of_cluster(view: ClusterView | None) -> Document:
    """Nodes' devices have no names of their own. `leased` is what pods request, whoever owns them."""
    if view is None or view.gpus is None:
        return {"total": None, "leased": None, "devices": [], "nodes": []}
    nodes = [{"name": name, "total": one.total, "leased": one.requested} for name, one in view.node_gpus.items()]
    return {"total": view.gpus, "leased": view.gpus - (view.free_gpus or 0), "devices": [], "nodes": nodes}


def cluster_services(report: TargetReport, view: ClusterView | None) -> list[Document]:
    """Every service that git names, that is ours, or that runs."""
    desired = {one.id: one for one in report.desired.services} if report.desired else {}
    verdicts = report.plan.verdicts if report.plan and view else {}
    facts = view.services if view else {}
    ids = sorted(desired.keys() | verdicts.keys() | facts.keys())
    failed = failures_of(report.last_results)
    documents = (
        _service(one, desired.get(one), verdicts.get(one), facts.get(one, _NOTHING), report, failed.get(one, ""))
        for one in ids
    )
    return [one | {"stages": stages_document(one, "cluster")} for one in documents]


def _service(
    service: ServiceId,
    desired: Desired | None,
    verdict: ServicePlan | None,
    facts: ServiceFacts,
    report: TargetReport,
    last_error: str,
) -> Document:
    good, applied = facts.promoted, verdict.applied if verdict else ""
    return {
        **described(service, desired, verdict, str(desired.origin if desired else facts.origin or ""), report),
        "liveDigest": facts.live_digest,
        "liveRevision": facts.live_revision,
        "promoted": promoted_document(good.digest, good.revision, good.at, None) if good else None,
        "canary": None,
        "blocked": [reason_document(one) for one in (verdict.blocked if verdict else ())],
        "rejected": rejected_document(verdict.rejected) if verdict and verdict.rejected else None,
        "kept": reason_document(verdict.kept) if verdict and verdict.kept else None,
        "problems": [reason_document(one) for one in (desired.problems if desired else ())],
        "warnings": [reason_document(one) for one in (desired.warnings if desired else ())],
        "lastError": last_error,
        "ready": f"{facts.ready}/{facts.desired}",
        "desiredReplicas": facts.desired or (desired.replicas if desired else 0),
        "crashes": [],
        "phase": facts.phase,
        "tokenFault": facts.token_fault if facts.token_fault is None else scrub_text(facts.token_fault),
        "lastFailure": last_failure(report.failures, service),
        "gpus": facts.gpus,
        "requests": requests_document(RequestCounts()),
        "fit": None,
        "staging": [],
        "replicas": [_pod(one, facts, applied) for one in facts.pods],
        "endpoints": {"host": facts.url, "path": "", "model": ""},
        **UNKNOWN,
        "url": facts.url,
        "conditions": list(facts.status.get("conditions") or ()),
        "modelStatus": dict(facts.status.get("modelStatus") or {}),
        "metricsPath": None,
    }


def _pod(pod: PodFacts, facts: ServiceFacts, applied: str) -> Document:
    """`applied` is the digest that the newest pods are of; that of others is only known while they serve."""
    return {
        "id": pod.name,
        "phase": pod.phase,
        "digest": applied if pod.newest and applied else facts.live_digest if pod.ready else "",
        "canary": False,
        "port": None,
        "socket": "",
        "tls": False,
        "gpus": [],
        "gpuCount": pod.gpus,
        "gpuFraction": None,
        "image": "",
        "inFlight": None,
        "unresponsive": scrub_text(pod.message),
        "routed": "Active" if pod.ready else "Absent",
        "exitCode": None,
        "since": timestamp(pod.since),
        "outdated": False,
        "createdAt": timestamp(pod.created_at),
        "startedAt": timestamp(pod.started_at),
        "readyAt": timestamp(pod.ready_at),
        "drainingAt": timestamp(pod.draining_at),
        "stoppingAt": None,
        "node": pod.node,
        "restarts": pod.restarts,
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
        "health": health_document(one.health),
        "change": one.change.value,
        "why": scrub_text(one.why),
        "differences": [scrub_text(line) for line in one.lines],
        "reasons": [reason_document(reason) for reason in one.reasons],
    }
