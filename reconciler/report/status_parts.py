"""What a status is made of: replicas, files, GPUs, fit and canary, as its document shows them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from reconciler.config.settings import Routing
from reconciler.engines.arguments import ends_tls
from reconciler.host.capacity import WHOLE
from reconciler.model import (
    EVERYTHING,
    Approval,
    ByHand,
    ClusterView,
    Desired,
    DesiredState,
    FailedAction,
    Fit,
    GpuUse,
    Health,
    HealthStatus,
    Observed,
    Outcome,
    Owned,
    Plan,
    Quarantine,
    Reason,
    ReasonCode,
    Replica,
    Result,
    Routed,
    ServiceId,
    ServicePlan,
    ServiceRoute,
    Signer,
    Silence,
    Staging,
    Sync,
    Unreachable,
    host_reason,
    progress,
)
from reconciler.model.model_sources import fetched, shown
from reconciler.report.actions import action_name, services_of
from reconciler.report.redact import scrub_text
from reconciler.report.requests import RequestCounts


def fit_document(fit: Fit | None) -> dict[str, Any] | None:
    """Bytes for each GPU, or of the host's memory where `gpus` is 0; None if not measured yet."""
    if fit is None:
        return None
    return {
        "line": scrub_text(fit.line),
        "fits": fit.fits,
        "tight": fit.tight,
        "measured": fit.measured,
        "gpus": fit.gpus,
        "weightsBytes": fit.weights_bytes,
        "kvBytes": fit.kv_bytes,
        "kvBytesPerToken": fit.kv_bytes_per_token,
        "overheadBytes": fit.overhead_bytes,
        "needBytes": fit.need_bytes,
        "haveBytes": fit.have_bytes,
        "maxModelLen": fit.max_model_len,
        "concurrency": None if fit.concurrency is None else round(fit.concurrency, 2),
        "notes": [scrub_text(note) for note in fit.notes],
    }


Document = dict[str, Any]


def gpus_document(observed: Observed | None) -> Document:
    """`leased` counts devices of which anything is leased, whole or in part. `use` is None where it was not read: it
    is only while a replica has to start."""
    if observed is None:
        return {"total": None, "leased": None, "devices": [], "nodes": []}
    holders: dict[str, list[Replica]] = {}
    for replica in observed.replicas:
        for uuid in replica.lease.gpus:
            holders.setdefault(uuid, []).append(replica)
    uses = {uuid: gpu_use_document(use) for uuid, use in observed.capacity.gpu_use.items()}
    devices = [
        {
            "uuid": gpu.uuid,
            "kind": gpu.kind,
            "name": gpu.name,
            "profile": gpu.profile,
            "memoryBytes": gpu.memory_bytes,
            "parent": gpu.parent,
            "leases": [{"replica": str(one.id), "fraction": gpu_fraction(one)} for one in holders.get(gpu.uuid, ())],
            "use": uses.get(gpu.uuid),
        }
        for gpu in observed.capacity.gpus
    ]
    return {"total": len(devices), "leased": len(holders), "devices": devices, "nodes": []}


def gpu_use_document(use: GpuUse) -> Document:
    """Bytes mean nothing beside a `fault`. `strangers` are processes of no replica."""
    return {
        "usableBytes": use.usable_bytes,
        "freeBytes": use.free_bytes,
        "strangers": [
            {"pid": one.pid, "name": scrub_text(one.name), "memoryBytes": one.memory_bytes} for one in use.strangers
        ],
        "fault": scrub_text(use.fault),
    }


def gpu_fraction(replica: Replica) -> float | None:
    """How much of each of its GPUs a replica has; None where it has none."""
    if not replica.lease.gpus:
        return None
    share = replica.spec.resources.gpu_share_millis
    return share / WHOLE if share else 1


def gpus_held(replicas: Iterable[Replica]) -> float:
    """GPUs that these hold together; a share counts as the part that it is."""
    held = sum(len(one.lease.gpus) * (one.spec.resources.gpu_share_millis or WHOLE) for one in replicas)
    return held / WHOLE if held % WHOLE else held // WHOLE


def canary_document(desired: Desired | None, owned: Owned | None, route: ServiceRoute | None) -> Document | None:
    """None where git asks for no canary, or what it asks for is promoted.

    `percent` is what it gets now, 0 until it is ready; `desiredPercent` is what git gives it.
    """
    if desired is None or owned is None or owned.promoted is None:
        return None
    if desired.canary:
        digest, wanted = desired.canary.digest, desired.canary.percent
    elif desired.canary_percent is None or desired.canary_percent >= 100 or desired.digest == owned.promoted.digest:
        return None
    else:
        digest, wanted = desired.digest, desired.canary_percent
    serves = route is not None and any(not one.draining for one in route.canary)
    return {
        "digest": digest,
        "percent": route.canary_percent if route is not None and serves else 0,
        "desiredPercent": wanted,
        "replicas": desired.canary.replicas if desired.canary else desired.replicas,
    }


def is_canary(replica: Replica, canary: Document | None, route: ServiceRoute | None) -> bool:
    """Does the replica run the canary's digest, or is it still on the canary's side of the route?"""
    if canary and canary["digest"] == replica.digest:
        return True
    return route is not None and any(one.replica == replica.id for one in route.canary)


def promoted_document(digest: str, revision: str, at: float, replicas: int | None) -> Document:
    """A version that proved itself, with so many replicas; None: their number is not part of it."""
    return {"digest": digest, "revision": revision, "replicas": replicas, "at": timestamp(at)}


def timestamp(at: float | None) -> str | None:
    """RFC 3339 in UTC, to the millisecond."""
    if at is None:
        return None
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def live_digest(replicas: Sequence[Replica]) -> str:
    """The digest that serves requests: of the oldest ready replica behind the proxy, which a rollout replaces last."""
    serving = [
        one for one in replicas if replica_status(one) is ReplicaStatus.READY and one.routed is not Routed.ABSENT
    ]
    return serving[0].digest if serving else ""


class ReplicaStatus(StrEnum):
    """A replica's phase, as it is shown."""

    STARTING = "Starting"
    READY = "Ready"
    DRAINING = "Draining"
    STOPPED = "Stopped"
    FAILED = "Failed"


def replica_status(replica: Replica) -> ReplicaStatus:
    """The phase of a replica."""
    if not replica.alive:
        is_stopped = replica.stopping_at is not None or replica.rebooted
        return ReplicaStatus.STOPPED if is_stopped else ReplicaStatus.FAILED
    if replica.draining_at is not None or replica.stopping_at is not None:
        return ReplicaStatus.DRAINING
    if replica.ready_at is None:
        return ReplicaStatus.STARTING
    has_failed = replica.healthy is False or replica.silence is Silence.HUNG
    return ReplicaStatus.FAILED if has_failed else ReplicaStatus.READY


def staging_documents(desired: Desired | None, observed: object) -> Iterator[Document]:
    """Progress of the model downloads and image pull of a service."""
    if desired is None or desired.spec is None or not isinstance(observed, Observed):
        return
    for key, mount in fetched(desired.id, desired.spec):
        yield _staging_document(shown(mount.uri), observed.staging.get(key))
    if desired.spec.image in observed.images:
        yield _staging_document(desired.spec.image, observed.images[desired.spec.image])


def _staging_document(what: str, known: Staging | None) -> Document:
    return {
        "uri": what,
        "state": known.fetch.value if known else "Pending",
        "doneBytes": known.done if known else 0,
        "totalBytes": known.total if known else None,
        "message": scrub_text(known.reason.message) if known and known.reason else "",
    }


def replica_document(replica: Replica, is_canary: bool = False, is_outdated: bool = False) -> Document:
    """One replica as data. `is_outdated`: today's config would make something else of its digest."""
    since = replica.stopping_at or replica.draining_at or replica.ready_at or replica.created_at
    return {
        "id": str(replica.id),
        "phase": replica_status(replica),
        "digest": replica.digest,
        "canary": is_canary,
        "port": None if replica.socket else replica.lease.port,
        "socket": replica.socket,
        "tls": ends_tls(replica.spec.command_line),
        "gpus": list(replica.lease.gpus),
        "gpuCount": len(replica.lease.gpus),
        "gpuFraction": gpu_fraction(replica),
        "image": replica.image,
        "inFlight": replica.in_flight,
        "unresponsive": scrub_text(replica.silent_why) if replica.silence else "",
        "routed": replica.routed.value,
        "exitCode": replica.exit_code,
        "since": timestamp(since),
        "outdated": is_outdated,
        "createdAt": timestamp(replica.created_at),
        "startedAt": timestamp(replica.created_at if replica.spawned else None),
        "readyAt": timestamp(replica.ready_at),
        "drainingAt": timestamp(replica.draining_at),
        "stoppingAt": timestamp(replica.stopping_at),
    }


SCHEMA = "reconciler.status/v2"

DEFAULT_METRICS_PATH = "/metrics"
"""The metrics path of a replica whose service is no longer in git."""


@dataclass(frozen=True, slots=True)
class RefusedRevision:
    """A revision that is not accepted as a whole, and why."""

    revision: str
    reason: str


NOT_FETCHED = "not fetched yet"
"""The source's error until git has answered for the first time."""


@dataclass(frozen=True, slots=True)
class RevisionInfo:
    """The source's state. `error`: why the latest fetch or read failed; empty when it succeeded. `refused`: what is
    newer than `desired`, and not accepted. `signer` signed `desired`; None where signatures are not verified."""

    desired: str = ""
    applied: str = ""
    subject: str = ""
    error: str = ""
    fetched_at: float | None = None
    refused: RefusedRevision | None = None
    signer: Signer | None = None


@dataclass(frozen=True, slots=True)
class DaemonInfo:
    """The daemon. `passes` counts the passes completed so far over all targets; with 0 nothing is known yet.

    `fault`: why the state folder is not writable. `config_fault`: why the config that was read last is not
    in force.
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
    """One target after its latest pass. `routing` is None for a cluster.

    `suspended` holds `namespace/name` of services, or `*` for all of them.

    `applied` is the revision that this target reached; empty means the source's. `suspensions` tell more of what is
    suspended, by the same names; `drained`: who drained the whole host. `requests`: their outcomes.
    `pass_error`: why the latest pass failed; empty when it did not. `closed_paths` counts requests for paths that are
    not open. `approvals` are of deletions that are not done yet. `reached_at`: when it was last reached, if ever.
    """

    desired: DesiredState | None
    observed: Observed | ClusterView | Unreachable | None
    plan: Plan | None
    routing: Routing | None
    suspended: frozenset[str] = frozenset()
    last_results: tuple[Result, ...] = ()
    name: str = ""
    applied: str = ""
    suspensions: Mapping[str, ByHand] = field(default_factory=dict)
    drained: ByHand | None = None
    requests: Mapping[ServiceId, RequestCounts] = field(default_factory=dict)
    failures: tuple[FailedAction, ...] = ()
    pass_error: str = ""
    closed_paths: int = 0
    approvals: tuple[Approval, ...] = ()
    reached_at: float | None = None


@dataclass(frozen=True, slots=True)
class LeftoverInfo:
    """A target that is no longer in the config, though its replicas or state still exist."""

    target: str
    folder: str
    replicas: int
    services: tuple[str, ...]
    message: str
    fix: str


def described(
    service: ServiceId, desired: Desired | None, verdict: ServicePlan | None, origin: str, report: TargetReport
) -> Document:
    """What is told of a service on any kind of target: its name, what git wants of it, and what its plan says."""
    health = verdict.health if verdict else _unknown_health(report)
    asked = report.suspensions
    return {
        "namespace": service.namespace,
        "name": service.name,
        "displayName": desired.display_name if desired else "",
        "dashboard": desired.dashboard if desired else True,
        "inGit": desired is not None,
        "origin": origin,
        "sync": (verdict.sync if verdict else Sync.UNKNOWN).value,
        "health": health_document(health),
        "suspended": bool({EVERYTHING, str(service)} & report.suspended),
        "suspension": manual_document(asked.get(str(service)) or asked.get(EVERYTHING)),
        "step": verdict.step if verdict else "",
        "strategy": verdict.strategy if verdict else "",
        "outdated": list(verdict.outdated) if verdict else [],
        "digest": desired.digest if desired else "",
    }


def health_document(health: Health) -> Document:
    return {
        "status": health.phase.value,
        "reason": health.reason.code,
        "message": scrub_text(str(health.reason)),
    }


def _unknown_health(report: TargetReport) -> Health:
    if isinstance(report.observed, Unreachable):
        return Health(HealthStatus.UNKNOWN, host_reason(ReasonCode.TARGET_UNREACHABLE, report.observed.reason))
    return Health(HealthStatus.UNKNOWN, progress(ReasonCode.NOT_YET_OBSERVED, "no pass has looked at it yet"))


def failures_of(results: Sequence[Result]) -> dict[ServiceId | None, str]:
    """The latest failure of each service; under None that of no service: the proxy's, or an object's."""
    found: dict[ServiceId | None, str] = {}
    for result in results:
        if result.outcome is Outcome.FAILED:
            text = scrub_text(f"{action_name(result.action)} failed: {result.error}")
            found |= dict.fromkeys(services_of(result.action) or (None,), text)
    return found


def manual_document(asked: ByHand | None) -> Document | None:
    if asked is None:
        return None
    return {
        "by": asked.by,
        "at": timestamp(asked.at),
        "reason": scrub_text(asked.reason),
        "until": timestamp(asked.until),
    }


def deletions_document(report: TargetReport) -> Document:
    """`held` wait for an approval of their hash; `approvals` are those given, by hand or by a commit."""
    held = report.plan.deletions.held if report.plan else None
    return {
        "held": {
            "hash": held.hash,
            "reasons": [scrub_text(reason.message) for reason in held.reasons],
            "subjects": [each.subject for each in held.deletions],
            "gpus": sum(each.gpus for each in held.deletions),
        }
        if held
        else None,
        "approvals": [
            {
                "hash": one.hash,
                "subjects": sorted(subject for subject, _ in one.members),
                "by": one.asked.by,
                "at": timestamp(one.asked.at),
                "reason": scrub_text(one.asked.reason),
                "withdrawn": one.withdrawn,
            }
            for one in report.approvals
        ],
    }


def reason_document(reason: Reason) -> Document:
    return {
        "code": reason.code,
        "message": scrub_text(reason.message),
        "file": reason.origin.file if reason.origin else None,
        "line": reason.origin.line if reason.origin else None,
    }


def last_failure(failures: Sequence[FailedAction], service: ServiceId | None) -> Document | None:
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


def requests_document(known: RequestCounts) -> Document:
    """The effect of our changes on requests: in total, and since the current rollout."""
    return {**known.total, "rollout": {**known.rollout, "revision": known.revision}}


def rejected_document(quarantine: Quarantine) -> Document:
    """A quarantine as data."""
    return {
        "digest": quarantine.digest,
        "code": quarantine.reason.code,
        "reason": scrub_text(quarantine.reason.message),
        "file": quarantine.reason.origin.file if quarantine.reason.origin else None,
        "line": quarantine.reason.origin.line if quarantine.reason.origin else None,
        "revision": quarantine.revision,
        "at": timestamp(quarantine.at),
        "logTail": [scrub_text(line) for line in quarantine.last_words],
    }
