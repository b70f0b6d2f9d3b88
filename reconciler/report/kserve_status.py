"""The observed state of a service → the status that KServe would give it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from reconciler.config.settings import Routing
from reconciler.kserve.status import (
    FailureInfo,
    KServeCondition,
    ObservedService,
    conditions,
    failed_because,
    invalid_because,
    model_status,
)
from reconciler.model import Desired, Owned, ReasonCode, Replica, Routed, ServicePlan
from reconciler.report.redact import scrub_text
from reconciler.report.status_parts import ReplicaStatus, replica_status

Document = dict[str, Any]


# Where it cannot be known.
UNKNOWN: Document = {"url": "", "conditions": [], "modelStatus": {}}


def kserve_status(desired: Desired, seen: ObservedService, routing: Routing) -> Document:
    """What `kubectl` would show of the service: url, conditions and modelStatus."""
    model = model_status(seen)
    # A URL appears with the first replica that was ever ready, and goes while the service is stopped.
    served = (model.get("states") or {}).get("activeModelState")
    return {
        "url": _url(desired, routing) if served else "",
        "conditions": [_condition(each) for each in conditions(seen)],
        "modelStatus": _scrubbed(model),
    }


def _url(desired: Desired, routing: Routing) -> str:
    port = routing.listen.rpartition(":")[2]
    scheme = "https" if desired.passthrough else "http"
    host = f"{desired.id.name}-{desired.id.namespace}.{routing.domain}"
    return f"{scheme}://{host}{'' if port == '80' else ':' + port}"


def observed_service(
    desired: Desired, replicas: Sequence[Replica], owned: Owned | None, verdict: ServicePlan, desired_replicas: int
) -> ObservedService:
    """The facts from which KServe's conditions follow."""
    ready = sorted((one for one in replicas if replica_status(one) is ReplicaStatus.READY), key=_ready_at)
    updated = [one for one in ready if one.digest == desired.digest]
    alive = [one for one in replicas if one.alive and one.stopping_at is None]
    counted = updated if len(updated) >= desired_replicas else ready
    return ObservedService(
        desired=desired_replicas,
        ready=len(ready),
        updated=len(updated),
        alive=len(alive),
        failed=sum(not one.alive and one.stopping_at is None and not one.rebooted for one in replicas),
        is_stopped=desired.stopped,
        is_loading=verdict.health.reason.code is ReasonCode.STAGING,
        served=bool(ready or (owned and owned.promoted)),
        routed=any(one.routed is Routed.ACTIVE for one in ready),
        invalid=invalid_because(desired.problems[0].code, desired.problems[0].message) if desired.problems else None,
        failure=_failure(verdict, replicas),
        ready_since=_ready_at(counted[desired_replicas - 1]) if 0 < desired_replicas <= len(counted) else None,
        started_at=max((one.created_at for one in alive), default=None),
    )


def _ready_at(replica: Replica) -> float:
    return replica.ready_at or replica.created_at


def _failure(verdict: ServicePlan, replicas: Sequence[Replica]) -> FailureInfo | None:
    if not verdict.rejected:
        return None
    refused = verdict.rejected
    codes = [one.exit_code for one in replicas if one.digest == refused.digest and one.exit_code is not None]
    return failed_because(refused.reason.message, codes[-1] if codes else None, refused.at)


def _condition(condition: KServeCondition) -> Document:
    known = {"type": condition.type, "status": condition.status}
    more = {"reason": condition.reason, "message": condition.message}
    since = {} if condition.since is None else {"lastTransitionTime": _rfc3339(condition.since)}
    return {**known, **{key: value for key, value in more.items() if value}, **since}


def _rfc3339(at: float) -> str:
    """To the second, as Kubernetes writes it."""
    return datetime.fromtimestamp(int(at), UTC).isoformat().replace("+00:00", "Z")


def _scrubbed(status: Document) -> Document:
    failure = status.get("lastFailureInfo")
    return {**status, "lastFailureInfo": {**failure, "message": scrub_text(failure["message"])}} if failure else status
