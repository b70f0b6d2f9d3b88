"""The status that KServe would report of a service, from a host's observations: conditions and modelStatus.

Where KServe watches a Deployment and its pods, a host watches replicas; the messages and the order of precedence are
KServe's. Three habits of its controller are left out on purpose: a failure is forgotten once a newer try succeeds, an
update that fails while the old replicas serve is always BlockedByFailedLoad, and no deadline turns a service that
serves into one that does not. Times are seconds since the epoch and come from the facts, so that equal facts give an
equal answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reconciler.model import ReasonCode

Document = dict[str, Any]
# What only the event says, and what KServe writes into the status instead.
_STATUS_WORDS = {
    ReasonCode.RUNTIME_NOT_RECOGNIZED: "Waiting for runtime to become available",
    ReasonCode.RUNTIME_DISABLED: "Specified runtime is disabled",
}
_INVALID = frozenset({*_STATUS_WORDS, ReasonCode.NO_SUPPORTING_RUNTIME, ReasonCode.INVALID_PREDICTOR_SPEC})


@dataclass(frozen=True, slots=True)
class FailureInfo:
    """Why the newest try failed."""

    reason: ReasonCode
    message: str
    exit_code: int | None = None
    at: float | None = None


@dataclass(frozen=True, slots=True)
class ObservedService:
    """A service as a host sees it.

    `desired` replicas, `ready` of any spec and `updated` of git's own; `ready_since` is when the last of the desired
    ones became ready, `started_at` when the newest try began. `served`: it has been ready before. `routed`: the proxy
    sends requests. `invalid`: git's documents cannot be used. `failure`: git's spec was tried and gave up.
    """

    desired: int
    ready: int = 0
    updated: int = 0
    alive: int = 0
    failed: int = 0
    is_stopped: bool = False
    is_loading: bool = False
    served: bool = False
    routed: bool = False
    invalid: FailureInfo | None = None
    failure: FailureInfo | None = None
    ready_since: float | None = None
    started_at: float | None = None

    @property
    def is_available(self) -> bool:
        return self.ready >= self.desired

    @property
    def is_reachable(self) -> bool:
        """The condition IngressReady; with it and as many replicas as desired a service is Ready."""
        return self.is_available and (self.routed or not self.desired)


@dataclass(frozen=True, slots=True)
class KServeCondition:
    """One line of `status.conditions`. `since` is None where no fact tells."""

    type: str
    status: str
    reason: str = ""
    message: str = ""
    since: float | None = None


def conditions(seen: ObservedService) -> tuple[KServeCondition, ...]:
    """In order of their type, as KServe lists them."""
    if seen.is_stopped and not seen.invalid:
        stopped = [KServeCondition(kind, "False", "Stopped") for kind in ("IngressReady", "PredictorReady", "Ready")]
        return (*stopped, KServeCondition("Stopped", "True"))
    if seen.invalid and not (seen.alive or seen.served):
        return tuple(KServeCondition(kind, "Unknown") for kind in ("IngressReady", "PredictorReady", "Ready"))
    predictor = _predictor(seen)
    ingress = _ingress(seen, predictor)
    return (ingress, predictor, _ready(ingress, predictor), KServeCondition("Stopped", "False"))


def _predictor(seen: ObservedService) -> KServeCondition:
    kind = "PredictorReady"
    if seen.is_available:
        since = seen.ready_since
        if seen.updated >= seen.desired:
            text = f"{seen.updated} of {seen.desired} replicas serve the desired version."
            return KServeCondition(kind, "True", "NewReplicaSetAvailable", text, since)
        return KServeCondition(kind, "True", "MinimumReplicasAvailable", "Deployment has minimum availability.", since)
    if not seen.alive and not seen.failure:
        return KServeCondition(kind, "False", since=seen.started_at)
    text = "Deployment does not have minimum availability."
    return KServeCondition(kind, "False", "MinimumReplicasUnavailable", text, seen.started_at)


def _ingress(seen: ObservedService, predictor: KServeCondition) -> KServeCondition:
    if seen.is_reachable:
        return KServeCondition("IngressReady", "True", since=predictor.since)
    return KServeCondition("IngressReady", "False", "Predictor ingress not created", since=predictor.since)


def _ready(ingress: KServeCondition, predictor: KServeCondition) -> KServeCondition:
    if predictor.status == ingress.status == "True":
        return KServeCondition("Ready", "True", since=predictor.since)
    worse = ingress if ingress.status != "True" else predictor
    return KServeCondition("Ready", "False", worse.reason, worse.message, worse.since)


def model_status(seen: ObservedService) -> Document:
    """transitionStatus, states, copies and lastFailureInfo; what KServe would leave out is left out."""
    if seen.is_stopped and not seen.invalid:
        return {"transitionStatus": ""}
    active = "Loaded" if seen.served or seen.ready else ""
    transition, target, why = _transition(seen)
    copies = {"failedCopies": seen.failed, **({"totalCopies": seen.ready} if seen.ready else {})}
    states = {"activeModelState": active, "targetModelState": target}
    status: Document = {"transitionStatus": transition, "states": states, "copies": copies}
    return {**status, "lastFailureInfo": _failure_info(why)} if why else status


def _transition(seen: ObservedService) -> tuple[str, str, FailureInfo | None]:
    if seen.invalid:
        return "InvalidSpec", "FailedToLoad", seen.invalid
    if seen.failure:
        return "BlockedByFailedLoad", "FailedToLoad", seen.failure
    if seen.is_loading:
        return "InProgress", "Loading", None
    if seen.alive and seen.updated >= seen.desired and seen.is_reachable:
        return "UpToDate", "Loaded", None
    return "InProgress", "Pending", None


def _failure_info(failure: FailureInfo) -> Mapping[str, Any]:
    info: Document = {"reason": failure.reason, "message": failure.message}
    if failure.exit_code is not None:
        info["exitCode"] = failure.exit_code
    return info


def invalid_because(reason: ReasonCode, message: str) -> FailureInfo:
    """A problem of the documents in git as KServe's status reports it."""
    known = reason if reason in _INVALID else ReasonCode.INVALID_PREDICTOR_SPEC
    return FailureInfo(known, _STATUS_WORDS.get(reason, message))


def failed_because(message: str, exit_code: int | None = None, at: float | None = None) -> FailureInfo:
    """A try that gave up: the engine refused its arguments, crashed, or its model could not be had."""
    return FailureInfo(ReasonCode.MODEL_LOAD_FAILED, message, exit_code, at)
