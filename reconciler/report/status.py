"""Status as data: one document, `reconciler.status/v2`, from the desired, observed and planned state.

Pure. Times are RFC 3339 in UTC; everything is JSON. The command line, metrics and forges read only this document.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict

from reconciler.model import (
    EVERYTHING,
    ClusterView,
    DesiredState,
    Observed,
    Reason,
    ServiceId,
    Sync,
    Unreachable,
)
from reconciler.report.applied import HoldUp, holds_up
from reconciler.report.cluster_status import cluster_objects, cluster_services, gpus_of_cluster
from reconciler.report.redact import scrub_text
from reconciler.report.service_status import TargetIndex, service_document
from reconciler.report.status_parts import (
    SCHEMA,
    DaemonInfo,
    Document,
    LeftoverInfo,
    RefusedRevision,
    RevisionInfo,
    TargetReport,
    deletions_document,
    failures_of,
    gpus_document,
    last_failure,
    manual_document,
    reason_document,
    timestamp,
)

__all__ = [
    "SCHEMA",
    "DaemonInfo",
    "Document",
    "LeftoverInfo",
    "RefusedRevision",
    "RevisionInfo",
    "TargetReport",
    "build_status",
]


def build_status(
    *,
    revision: RevisionInfo,
    targets: Sequence[TargetReport],
    daemon: DaemonInfo,
    leftovers: Sequence[LeftoverInfo] = (),
) -> Document:
    """The status document of everything."""
    known = [_target(report, revision) for report in targets]
    return {
        "schema": SCHEMA,
        "daemon": {
            "version": daemon.version,
            "startedAt": timestamp(daemon.started_at),
            "pid": daemon.pid,
            "passes": daemon.passes,
            **({"build": daemon.build} if daemon.build else {}),
            **({"fault": daemon.fault} if daemon.fault else {}),
            **({"configFault": scrub_text(daemon.config_fault)} if daemon.config_fault else {}),
        },
        "revision": {
            "desired": revision.desired,
            "applied": revision.applied,
            "fullyApplied": bool(known)
            and all(
                one["revision"]["fullyApplied"] and one["revision"]["desired"] == revision.desired for one in known
            ),
            "heldUpBy": [{"target": one["name"]} | each for one in known for each in one["revision"]["heldUpBy"]],
            "subject": scrub_text(revision.subject),
            "error": scrub_text(revision.error),
            "refused": _refused(revision.refused),
            "fetchedAt": timestamp(revision.fetched_at),
            **({"signer": asdict(revision.signer)} if revision.signer else {}),
        },
        "targets": known,
        "leftovers": [asdict(one) for one in leftovers],
    }


def _refused(refused: RefusedRevision | None) -> Document | None:
    return {"revision": refused.revision, "reason": scrub_text(refused.reason)} if refused else None


def _target(report: TargetReport, revision: RevisionInfo) -> Document:
    if report.routing is None:
        return _cluster(report, revision)
    observed = report.observed if isinstance(report.observed, Observed) else None
    ids = _all_services(report, observed)
    names = Counter(service.name for service in ids)
    index = TargetIndex.of(report, observed, names, report.routing)
    return {
        **_common(report, revision),
        "kind": "host",
        "listen": report.routing.listen,
        "proxyReady": observed.proxy_ready if observed else None,
        "proxyFault": observed.proxy_break.value if observed else "",
        "gpus": gpus_document(observed),
        "closedPathRequests": report.closed_paths,
        "services": [service_document(service, index) for service in sorted(ids)],
        "objects": [],
    }


def _cluster(report: TargetReport, revision: RevisionInfo) -> Document:
    view = report.observed if isinstance(report.observed, ClusterView) else None
    return {
        **_common(report, revision),
        "kind": "cluster",
        "listen": "",
        "proxyReady": None,
        "proxyFault": "",
        "version": view.version if view else "",
        "gpus": gpus_of_cluster(view),
        "closedPathRequests": 0,
        "services": cluster_services(report, view),
        "objects": cluster_objects(report),
    }


def _common(report: TargetReport, revision: RevisionInfo) -> Document:
    """What is the same of every kind of target."""
    return {
        "name": _name(report),
        "reachable": isinstance(report.observed, Observed | ClusterView),
        "reason": _unreachable_reason(report),
        "passError": scrub_text(report.pass_error),
        "observedAt": timestamp(report.observed.at) if report.observed else None,
        "awaySince": timestamp(_away_since(report)),
        "revision": _target_revision(report, revision),
        "suspended": EVERYTHING in report.suspended,
        "suspension": manual_document(report.suspensions.get(EVERYTHING)),
        "drained": manual_document(report.drained),
        "cordoned": _cordon(report.desired),
        "deletions": deletions_document(report),
        "prunable": report.desired.prunable if report.desired else False,
        "unreadable": [reason_document(one) for one in (report.desired.unreadable if report.desired else ())],
        "refused": [reason_document(one) for one in (report.desired.refused if report.desired else ())],
        "notes": [reason_document(one) for one in _notes(report)],
        "lastError": failures_of(report.last_results).get(None, ""),
        "lastFailure": last_failure(report.failures, None),
    }


def _away_since(report: TargetReport) -> float | None:
    """When it was last reached; None while it is, or if it was not since the daemon started."""
    return None if isinstance(report.observed, Observed | ClusterView) else report.reached_at


def _cordon(desired: DesiredState | None) -> Document | None:
    """Why nothing new starts, or nothing runs at all: its code tells which."""
    why = (desired.drain or desired.unschedulable) if desired else None
    return reason_document(why) if why else None


def _target_revision(report: TargetReport, revision: RevisionInfo) -> Document:
    """`applied`: the revision is applied as far as possible. `fullyApplied`: all is in sync with `desired` now."""
    desired = report.desired.revision if report.desired else revision.desired
    applied = report.applied or revision.applied
    held: tuple[HoldUp, ...] = ()
    synced = False
    if report.desired and report.plan and isinstance(report.observed, Observed | ClusterView):
        held = holds_up(report.desired, report.plan)
        synced = all(verdict.sync is Sync.SYNCED for verdict in report.plan.verdicts.values())
    return {
        "desired": desired,
        "applied": applied,
        "fullyApplied": desired == applied and synced and not held,
        "heldUpBy": [
            {"service": str(one.service) if one.service else None} | reason_document(one.reason) for one in held
        ],
    }


def _name(report: TargetReport) -> str:
    for known in (report.observed, report.desired, report.plan):
        if known is not None:
            return known.target
    return report.name


def _unreachable_reason(report: TargetReport) -> str:
    if isinstance(report.observed, Unreachable):
        return scrub_text(report.observed.reason)
    return "not observed yet" if report.observed is None else ""


def _notes(report: TargetReport) -> Iterable[Reason]:
    seen = (*(report.desired.notes if report.desired else ()), *(report.plan.notes if report.plan else ()))
    unreadable = report.desired.unreadable if report.desired else ()
    return dict.fromkeys(one for one in seen if one not in unreadable)


def _all_services(report: TargetReport, observed: Observed | None) -> set[ServiceId]:
    ids = {one.id for one in report.desired.services} if report.desired else set()
    if observed:
        ids |= set(observed.owned) | {replica.service for replica in observed.replicas}
    if report.plan:
        ids |= {key for key, verdict in report.plan.verdicts.items() if verdict.kept}
    return ids
