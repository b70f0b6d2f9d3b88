"""One service of a target as data: desired, observed, planned, and the results. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from reconciler.config.settings import Routing
from reconciler.fault_isolation import caught
from reconciler.host.translation import is_current
from reconciler.model import (
    NO_ORIGIN,
    Desired,
    Fit,
    Health,
    HealthStatus,
    Observed,
    Owned,
    Preflight,
    Reason,
    Replica,
    ServiceId,
    ServicePlan,
    ServiceRoute,
    Sync,
)
from reconciler.report.kserve_status import UNKNOWN, kserve_status, observed_service
from reconciler.report.redact import scrub_text
from reconciler.report.requests import RequestCounts
from reconciler.report.stages import stages_document
from reconciler.report.status_parts import (
    DEFAULT_METRICS_PATH,
    Document,
    ReplicaStatus,
    TargetReport,
    canary_document,
    described,
    failures_of,
    fit_document,
    gpus_held,
    is_canary,
    last_failure,
    live_digest,
    promoted_document,
    reason_document,
    rejected_document,
    replica_document,
    replica_status,
    requests_document,
    staging_documents,
    timestamp,
)


@dataclass(frozen=True, slots=True)
class TargetIndex:
    """One target, indexed by service, so that a thousand services cost a thousand steps."""

    report: TargetReport
    desired: Mapping[ServiceId, Desired]
    replicas: Mapping[ServiceId, list[Replica]]
    owned: Mapping[ServiceId, Owned]
    routes: Mapping[ServiceId, ServiceRoute]
    verdicts: Mapping[ServiceId, ServicePlan]
    failures: Mapping[ServiceId | None, str]
    preflights: Mapping[str, Preflight]
    names: Mapping[str, int]
    routing: Routing

    @classmethod
    def of(
        cls, report: TargetReport, observed: Observed | None, names: Mapping[str, int], routing: Routing
    ) -> TargetIndex:
        replicas: dict[ServiceId, list[Replica]] = {}
        for replica in observed.replicas if observed else ():
            replicas.setdefault(replica.service, []).append(replica)
        return cls(
            report=report,
            desired={one.id: one for one in report.desired.services} if report.desired else {},
            replicas=replicas,
            owned=observed.owned if observed else {},
            routes=observed.routes if observed else {},
            verdicts=report.plan.verdicts if report.plan and observed else {},
            failures=failures_of(report.last_results),
            preflights=observed.preflights if observed else {},
            names=names,
            routing=routing,
        )

    def only(self, service: ServiceId, desired: Desired | None, verdict: ServicePlan) -> TargetIndex:
        """The same index with nothing of a service but this."""
        known = {service: desired} if desired else {}
        return replace(self, desired=known, replicas={}, owned={}, routes={}, verdicts={service: verdict})


def _is_ready(replica: Replica) -> bool:
    """A silent replica may be out of the route, and does not count."""
    return replica_status(replica) is ReplicaStatus.READY and not replica.silence


def _service(service: ServiceId, index: TargetIndex) -> Document:
    document = _without_stages(service, index)
    return document | {"stages": stages_document(document, "host")}


def _without_stages(service: ServiceId, index: TargetIndex) -> Document:
    desired, verdict = index.desired.get(service), index.verdicts.get(service)
    replicas = sorted(index.replicas.get(service, []), key=lambda one: (one.created_at, one.id))
    route = index.routes.get(service)
    owned = index.owned.get(service)
    canary = canary_document(desired, owned, route)
    # With a traffic percentage, the version in git is the canary; the promoted one keeps serving.
    has_stable = canary and desired and not desired.canary and not (verdict and verdict.rejected)
    stable = owned.promoted.replicas if has_stable and owned and owned.promoted else 0
    return {
        **described(service, desired, verdict, _origin(service, index), index.report),
        "liveDigest": live_digest(replicas),
        "liveRevision": _live_revision(owned, live_digest(replicas)),
        "promoted": _promoted(owned),
        "canary": canary,
        "blocked": [reason_document(one) for one in _blocked(desired, verdict)],
        "rejected": rejected_document(verdict.rejected) if verdict and verdict.rejected else None,
        "kept": reason_document(verdict.kept) if verdict and verdict.kept else None,
        "problems": [reason_document(one) for one in (desired.problems if desired else ())],
        "warnings": [reason_document(one) for one in _warnings(desired, index.report.observed)],
        "lastError": _last_error(service, desired, verdict, index),
        "ready": f"{sum(_is_ready(one) for one in replicas)}/{_desired_replicas(service, index) + stable}",
        "desiredReplicas": desired.replicas if desired else 0,
        "crashes": [timestamp(at) for at in sorted(owned.crashes)] if owned else [],
        "lastFailure": last_failure(index.report.failures, service),
        "gpus": gpus_held(replicas),
        "requests": requests_document(index.report.requests.get(service, RequestCounts())),
        "fit": fit_document(_fit(desired, index)),
        "staging": list(staging_documents(desired, index.report.observed)),
        "replicas": [
            replica_document(one, is_canary(one, canary, route), _is_outdated(one, index)) for one in replicas
        ],
        "endpoints": _endpoints(service, index),
        **_as_kserve(service, replicas, index),
        "metricsPath": desired.metrics_path if desired else DEFAULT_METRICS_PATH,
    }


def service_document(service: ServiceId, index: TargetIndex) -> Document:
    """A service that raises is shown by its name and the error; the others are shown in full."""
    try:
        return _service(service, index)
    except Exception as error:
        desired = index.desired.get(service)
        reason, bug = caught(error, f"reporting on {service}", desired.origin if desired else NO_ORIGIN)
        last = bug.traceback.strip().splitlines()[-2:-1]
        reason = replace(reason, message=f"{reason.message} ({' '.join(last).strip()})")
        known = Desired(service, desired.origin, None, "", problems=(reason,)) if desired else None
        verdict = ServicePlan(service, Sync.UNKNOWN, Health(HealthStatus.UNKNOWN, reason))
        return _service(service, index.only(service, known, verdict))


def _warnings(desired: Desired | None, observed: object) -> tuple[Reason, ...]:
    if desired is None:
        return ()
    has_no_gpu = isinstance(observed, Observed) and not observed.capacity.gpus
    return (*desired.warnings, *(desired.warnings_without_gpu if has_no_gpu else ()))


def _fit(desired: Desired | None, index: TargetIndex) -> Fit | None:
    verdict = index.preflights.get(desired.digest) if desired else None
    return verdict.fit if verdict else None


def _live_revision(owned: Owned | None, digest: str) -> str:
    """The revision at which what serves proved itself; empty while it has not."""
    good = owned.promoted if owned else None
    return good.revision if good and good.digest == digest else ""


def _promoted(owned: Owned | None) -> Document | None:
    """The last version that proved itself."""
    good = owned.promoted if owned else None
    return promoted_document(good.digest, good.revision, good.at, good.replicas) if good else None


def _is_outdated(replica: Replica, index: TargetIndex) -> bool:
    seen = index.report.observed
    change = seen.outdated.get((replica.service, replica.digest)) if isinstance(seen, Observed) else None
    return change is not None and not is_current(replica.translation, change.translation)


def _origin(service: ServiceId, index: TargetIndex) -> str:
    known = index.desired.get(service) or index.owned.get(service)
    if known:
        return str(known.origin)
    replicas = index.replicas.get(service)
    return str(replicas[-1].origin) if replicas else ""


def _blocked(desired: Desired | None, verdict: ServicePlan | None) -> tuple[Reason, ...]:
    return verdict.blocked if verdict else desired.blocked if desired else ()


def _desired_replicas(service: ServiceId, index: TargetIndex) -> int:
    desired, owned = index.desired.get(service), index.owned.get(service)
    if index.report.drained or (index.report.desired and index.report.desired.drain):
        return 0
    if desired and desired.spec:
        # A canary counts as long as the service itself is desired.
        return desired.replicas + (desired.canary.replicas if desired.canary and desired.replicas else 0)
    if desired is None and not _is_kept(service, index):
        return 0
    # Git cannot be used or read: the promoted version is kept, else what runs.
    return owned.promoted.replicas if owned and owned.promoted else len(index.replicas.get(service, ()))


def _is_kept(service: ServiceId, index: TargetIndex) -> bool:
    """Not found in git, but it may be in a file that cannot be read."""
    verdict = index.verdicts.get(service)
    return verdict is not None and verdict.kept is not None


def _as_kserve(service: ServiceId, replicas: Sequence[Replica], index: TargetIndex) -> Document:
    desired, verdict = index.desired.get(service), index.verdicts.get(service)
    if verdict is None or desired is None or desired.not_here:
        return dict(UNKNOWN)
    seen = observed_service(desired, replicas, index.owned.get(service), verdict, _desired_replicas(service, index))
    return kserve_status(desired, seen, index.routing)


def _endpoints(service: ServiceId, index: TargetIndex) -> Document:
    model = service.name if index.names[service.name] == 1 else str(service)
    return {
        "host": f"{service.name}-{service.namespace}.{index.routing.domain}",
        "path": f"/{service.namespace}/{service.name}",
        "model": model,
    }


def _last_error(service: ServiceId, desired: Desired | None, verdict: ServicePlan | None, index: TargetIndex) -> str:
    if desired and desired.problems:
        return scrub_text(str(desired.problems[0]))
    if verdict and verdict.rejected:
        return scrub_text(str(verdict.rejected.reason))
    return index.failures.get(service, "")
