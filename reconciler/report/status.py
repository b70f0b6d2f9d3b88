"""Status as data: one document, `reconciler.status/v1`, from what git says, what was seen and what was planned.

Pure. Times are RFC 3339 in UTC; everything is JSON. The command line, metrics and forges read only this document.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from reconciler.bugs import caught
from reconciler.config import Routing
from reconciler.model import (
    ByHand,
    Desired,
    DesiredState,
    Failure,
    Fit,
    Health,
    Observed,
    Outcome,
    Owned,
    Phase,
    Plan,
    Preflight,
    Quarantine,
    Reason,
    Replica,
    Result,
    ServiceId,
    ServiceRoute,
    Sync,
    Unreachable,
    Verdict,
)
from reconciler.report.actions import action_name, services_of
from reconciler.report.applied import HoldUp, holds_up
from reconciler.report.canary import canary_document, is_canary
from reconciler.report.fit import fit_document
from reconciler.report.gpus import gpus_document, gpus_held
from reconciler.report.kserve_status import UNTOLD, kserve_status, see
from reconciler.report.replicas import (
    live_digest,
    replica_document,
    replica_phase,
    staging_documents,
    timestamp,
)
from reconciler.report.requests import Requests
from reconciler.report.scrub import scrub_text

Document = dict[str, Any]
SCHEMA = "reconciler.status/v1"
EVERYTHING = "*"
"""Stands in `TargetReport.suspended` for the whole target."""

DEFAULT_METRICS_PATH = "/metrics"
"""Where a replica tells its metrics whose service git does not name any more."""


@dataclass(frozen=True, slots=True)
class RevisionInfo:
    """What the source offers. `error` is why it could not be fetched or read just now; empty when it could."""

    wanted: str = ""
    applied: str = ""
    subject: str = ""
    error: str = ""
    fetched_at: float | None = None


@dataclass(frozen=True, slots=True)
class DaemonInfo:
    """Who answers. `passes` counts the passes completed so far over all targets: 0 means that nothing is known yet.

    `fault` says why nothing can be written into our folder, `config_fault` why the config that was read last is not
    the one in force.
    """

    version: str
    started_at: float
    pid: int
    passes: int = 0
    build: str = ""
    fault: str = ""
    config_fault: str = ""


@dataclass(frozen=True, slots=True)
class TargetReport:
    """One target after its latest pass. `suspended` holds `namespace/name` of services, or `*` for all of them.

    `applied` is the revision that this target reached; empty means the source's. `suspensions` tell more of what is
    suspended, by the same names; `drained`: by whom the whole host is drained. `requests`: what became of them.
    `pass_error`: why the latest try made no pass; empty when it did. `closed_paths` counts requests for paths that are
    not open.
    """

    desired: DesiredState | None
    observed: Observed | Unreachable | None
    plan: Plan | None
    routing: Routing
    suspended: frozenset[str] = frozenset()
    last_results: tuple[Result, ...] = ()
    name: str = ""
    applied: str = ""
    suspensions: Mapping[str, ByHand] = field(default_factory=dict)
    drained: ByHand | None = None
    requests: Mapping[ServiceId, Requests] = field(default_factory=dict)
    failures: tuple[Failure, ...] = ()
    pass_error: str = ""
    closed_paths: int = 0


@dataclass(frozen=True, slots=True)
class LeftoverInfo:
    """A target that the config does not name any more, though something of it is there; `message` says so in words."""

    target: str
    folder: str
    replicas: int
    services: tuple[str, ...]
    message: str
    fix: str


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
            "wanted": revision.wanted,
            "applied": revision.applied,
            "fullyApplied": bool(known)
            and all(one["revision"]["fullyApplied"] and one["revision"]["wanted"] == revision.wanted for one in known),
            "heldUpBy": [{"target": one["name"]} | each for one in known for each in one["revision"]["heldUpBy"]],
            "subject": scrub_text(revision.subject),
            "error": scrub_text(revision.error),
            "fetchedAt": timestamp(revision.fetched_at),
        },
        "targets": known,
        "leftovers": [asdict(one) for one in leftovers],
    }


def _target(report: TargetReport, revision: RevisionInfo) -> Document:
    observed = report.observed if isinstance(report.observed, Observed) else None
    ids = _all_services(report, observed)
    names = Counter(service.name for service in ids)
    sight = _Sight.of(report, observed, names)
    return {
        "name": _name(report),
        "reachable": observed is not None,
        "reason": _unreachable_reason(report),
        "passError": scrub_text(report.pass_error),
        "observedAt": timestamp(report.observed.at) if report.observed else None,
        "revision": _target_revision(report, revision),
        "suspended": EVERYTHING in report.suspended,
        "suspension": _by_hand(report.suspensions.get(EVERYTHING)),
        "drained": _by_hand(report.drained),
        "cordoned": _reason(report.desired.cordon) if report.desired and report.desired.cordon else None,
        "prunable": report.desired.prunable if report.desired else False,
        "listen": report.routing.listen,
        "proxyReady": observed.proxy_ready if observed else None,
        "proxyBreak": observed.proxy_break.value if observed else "",
        "gpus": gpus_document(observed),
        "unreadable": [_reason(one) for one in (report.desired.unreadable if report.desired else ())],
        "refused": [_reason(one) for one in (report.desired.refused if report.desired else ())],
        "notes": [_reason(one) for one in _notes(report)],
        "lastError": _failure_of_none(report.last_results),
        "lastFailure": _last_failure(report.failures, None),
        "closedPathRequests": report.closed_paths,
        "services": [_service_safely(service, sight) for service in sorted(ids)],
    }


def _target_revision(report: TargetReport, revision: RevisionInfo) -> Document:
    """`applied`: what can be applied of that revision is. `fullyApplied`: everything is as `wanted` says, now."""
    wanted = report.desired.revision if report.desired else revision.wanted
    applied = report.applied or revision.applied
    held: tuple[HoldUp, ...] = ()
    synced = False
    if report.desired and report.plan and isinstance(report.observed, Observed):
        held = holds_up(report.desired, report.plan)
        synced = all(verdict.sync is Sync.SYNCED for verdict in report.plan.verdicts.values())
    return {
        "wanted": wanted,
        "applied": applied,
        "fullyApplied": wanted == applied and synced and not held,
        "heldUpBy": [{"service": str(one.service) if one.service else None} | _reason(one.reason) for one in held],
    }


def _name(report: TargetReport) -> str:
    for known in (report.observed, report.desired, report.plan):
        if known is not None:
            return known.target
    return report.name


def _unreachable_reason(report: TargetReport) -> str:
    if isinstance(report.observed, Unreachable):
        return scrub_text(report.observed.reason)
    return "not asked yet" if report.observed is None else ""


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


@dataclass(frozen=True, slots=True)
class _Sight:
    """One target, indexed by service, so that a thousand services cost a thousand steps."""

    report: TargetReport
    desired: Mapping[ServiceId, Desired]
    replicas: Mapping[ServiceId, list[Replica]]
    owned: Mapping[ServiceId, Owned]
    routes: Mapping[ServiceId, ServiceRoute]
    verdicts: Mapping[ServiceId, Verdict]
    failures: Mapping[ServiceId, str]
    preflights: Mapping[str, Preflight]
    names: Mapping[str, int]

    @classmethod
    def of(cls, report: TargetReport, observed: Observed | None, names: Mapping[str, int]) -> _Sight:
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
            failures=_failures(report.last_results),
            preflights=observed.preflights if observed else {},
            names=names,
        )

    def only(self, service: ServiceId, desired: Desired | None, verdict: Verdict) -> _Sight:
        """The same without what is known of a service, but for this."""
        told = {service: desired} if desired else {}
        return replace(self, desired=told, replicas={}, owned={}, routes={}, verdicts={service: verdict})


def _is_ready(replica: Replica) -> bool:
    """What does not answer may be out of the route, and serves for none."""
    return replica_phase(replica) == "Ready" and not replica.silence


def _service(service: ServiceId, sight: _Sight) -> Document:
    desired, verdict = sight.desired.get(service), sight.verdicts.get(service)
    replicas = sorted(sight.replicas.get(service, []), key=lambda one: (one.created_at, one.id))
    health = verdict.health if verdict else _unknown_health(sight.report)
    suspended = bool({EVERYTHING, str(service)} & sight.report.suspended)
    asked = sight.report.suspensions
    route = sight.routes.get(service)
    owned = sight.owned.get(service)
    canary = canary_document(desired, owned, route)
    # The share of requests makes git's own version the canary; what is promoted stays beside it.
    is_beside = canary and desired and not desired.canary and not (verdict and verdict.rejected)
    beside = owned.promoted.replicas if is_beside and owned and owned.promoted else 0
    return {
        "namespace": service.namespace,
        "name": service.name,
        "displayName": desired.display_name if desired else "",
        "dashboard": desired.dashboard if desired else True,
        "inGit": desired is not None,
        "origin": _origin(service, sight),
        "sync": (verdict.sync if verdict else Sync.UNKNOWN).value,
        "health": {
            "status": health.phase.value,
            "reason": health.reason.code,
            "message": scrub_text(str(health.reason)),
        },
        "suspended": suspended,
        "suspension": _by_hand(asked.get(str(service)) or asked.get(EVERYTHING)),
        "step": verdict.step if verdict else "",
        "strategy": verdict.strategy if verdict else "",
        "outdated": list(verdict.outdated) if verdict else [],
        "digest": desired.digest if desired else "",
        "liveDigest": live_digest(replicas),
        "canary": canary,
        "blocked": [_reason(one) for one in _blocked(desired, verdict)],
        "rejected": _rejected(verdict.rejected) if verdict and verdict.rejected else None,
        "kept": _reason(verdict.kept) if verdict and verdict.kept else None,
        "problems": [_reason(one) for one in (desired.problems if desired else ())],
        "warnings": [_reason(one) for one in _warnings(desired, sight.report.observed)],
        "lastError": _last_error(service, desired, verdict, sight),
        "ready": f"{sum(_is_ready(one) for one in replicas)}/{_wanted(service, sight) + beside}",
        "lastFailure": _last_failure(sight.report.failures, service),
        "gpus": gpus_held(replicas),
        "requests": _requests(sight.report.requests.get(service, Requests())),
        "fit": fit_document(_fit(desired, sight)),
        "staging": list(staging_documents(desired, sight.report.observed)),
        "replicas": [replica_document(one, is_canary(one, canary, route)) for one in replicas],
        "endpoints": _endpoints(service, sight),
        **_as_kserve(service, replicas, sight),
        "metricsPath": desired.metrics_path if desired else DEFAULT_METRICS_PATH,
    }


def _service_safely(service: ServiceId, sight: _Sight) -> Document:
    """One that makes us raise is told of by its name and the error; all that is known of the others is told."""
    try:
        return _service(service, sight)
    except Exception as error:
        desired = sight.desired.get(service)
        reason, bug = caught(error, f"reporting on {service}", desired.origin if desired else None)
        last = bug.traceback.strip().splitlines()[-2:-1]
        reason = replace(reason, message=f"{reason.message} ({' '.join(last).strip()})")
        known = Desired(service, desired.origin, None, "", problems=(reason,)) if desired else None
        verdict = Verdict(service, Sync.UNKNOWN, Health(Phase.UNKNOWN, reason))
        return _service(service, sight.only(service, known, verdict))


def _requests(known: Requests) -> Document:
    """What our changes did to them: in all, and since git asked for what it asks for now."""
    return {**known.total, "rollout": {**known.rollout, "revision": known.revision}}


def _warnings(desired: Desired | None, observed: Observed | Unreachable | None) -> tuple[Reason, ...]:
    if desired is None:
        return ()
    lacks_gpus = isinstance(observed, Observed) and not observed.capacity.gpus
    return (*desired.warnings, *(desired.warnings_without_gpu if lacks_gpus else ()))


def _fit(desired: Desired | None, sight: _Sight) -> Fit | None:
    verdict = sight.preflights.get(desired.digest) if desired else None
    return verdict.fit if verdict else None


def _unknown_health(report: TargetReport) -> Health:
    if isinstance(report.observed, Unreachable):
        return Health(Phase.UNKNOWN, Reason("TargetUnreachable", report.observed.reason))
    return Health(Phase.UNKNOWN, Reason("NotYetSeen", "no pass has looked at it yet"))


def _origin(service: ServiceId, sight: _Sight) -> str:
    known = sight.desired.get(service) or sight.owned.get(service)
    if known:
        return str(known.origin)
    replicas = sight.replicas.get(service)
    return str(replicas[-1].origin) if replicas else ""


def _blocked(desired: Desired | None, verdict: Verdict | None) -> tuple[Reason, ...]:
    return verdict.blocked if verdict else desired.blocked if desired else ()


def _wanted(service: ServiceId, sight: _Sight) -> int:
    desired, owned = sight.desired.get(service), sight.owned.get(service)
    if sight.report.desired and (sight.report.desired.cordon or sight.report.desired.drain):
        return 0
    if desired and desired.spec:
        # A canary counts as long as the service itself is wanted.
        return desired.replicas + (desired.canary.replicas if desired.canary and desired.replicas else 0)
    if desired is None and not _is_kept(service, sight):
        return 0
    # What git says cannot be used or read: what was promoted is kept, else what runs.
    return owned.promoted.replicas if owned and owned.promoted else len(sight.replicas.get(service, ()))


def _is_kept(service: ServiceId, sight: _Sight) -> bool:
    """Git does not show it, but it may be in a file that cannot be read."""
    verdict = sight.verdicts.get(service)
    return verdict is not None and verdict.kept is not None


def _as_kserve(service: ServiceId, replicas: Sequence[Replica], sight: _Sight) -> Document:
    desired, verdict = sight.desired.get(service), sight.verdicts.get(service)
    if verdict is None or desired is None or desired.not_here:
        return dict(UNTOLD)
    seen = see(desired, replicas, sight.owned.get(service), verdict, _wanted(service, sight))
    return kserve_status(desired, seen, sight.report.routing)


def _endpoints(service: ServiceId, sight: _Sight) -> Document:
    model = service.name if sight.names[service.name] == 1 else str(service)
    return {
        "host": f"{service.name}-{service.namespace}.{sight.report.routing.domain}",
        "path": f"/{service.namespace}/{service.name}",
        "model": model,
    }


def _by_hand(asked: ByHand | None) -> Document | None:
    if asked is None:
        return None
    return {
        "by": asked.by,
        "at": timestamp(asked.at),
        "reason": scrub_text(asked.reason),
        "until": timestamp(asked.until),
    }


def _reason(reason: Reason) -> Document:
    return {
        "code": reason.code,
        "message": scrub_text(reason.message),
        "file": reason.origin.file if reason.origin else None,
        "line": reason.origin.line if reason.origin else None,
    }


def _rejected(quarantine: Quarantine) -> Document:
    return {
        "digest": quarantine.digest,
        "code": quarantine.reason.code,
        "reason": scrub_text(quarantine.reason.message),
        "file": quarantine.reason.origin.file if quarantine.reason.origin else None,
        "line": quarantine.reason.origin.line if quarantine.reason.origin else None,
        "revision": quarantine.revision,
        "at": timestamp(quarantine.at),
        "lastWords": [scrub_text(line) for line in quarantine.last_words],
    }


def _failures(results: Sequence[Result]) -> dict[ServiceId, str]:
    found: dict[ServiceId, str] = {}
    for result in results:
        if result.outcome is Outcome.FAILED:
            for service in services_of(result.action):
                found[service] = scrub_text(f"{action_name(result.action)} failed: {result.error}")
    return found


def _failure_of_none(results: Sequence[Result]) -> str:
    """The latest failure that belongs to no service: the proxy's."""
    failed = [one for one in results if one.outcome is Outcome.FAILED and not services_of(one.action)]
    return scrub_text(f"{action_name(failed[-1].action)} failed: {failed[-1].error}") if failed else ""


def _last_failure(failures: Sequence[Failure], service: ServiceId | None) -> Document | None:
    """The latest action that failed and has not succeeded since: of one service, or of the proxy and the host."""
    found = [one for one in failures if service in one.services or (service is None and not one.services)]
    if not found:
        return None
    last = max(found, key=lambda one: (one.at, one.tries))
    return {
        "action": last.action,
        "reason": scrub_text(last.error),
        "at": timestamp(last.at),
        "tries": last.tries,
    }


def _last_error(service: ServiceId, desired: Desired | None, verdict: Verdict | None, sight: _Sight) -> str:
    if desired and desired.problems:
        return scrub_text(str(desired.problems[0]))
    if verdict and verdict.rejected:
        return scrub_text(str(verdict.rejected.reason))
    return sight.failures.get(service, "")
