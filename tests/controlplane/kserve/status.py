"""The status that KServe 0.20 was seen to write, by its Deployment and pods, and by the status before. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Document = dict[str, Any]
NO_INGRESS = "Predictor ingress not created"
_INITIALIZER, _SERVER = "storage-initializer", "kserve-container"
_STOPPED: Document = {"type": "Stopped", "status": "False", "severity": "Info"}


def invalid(before: Mapping[str, Any], failure: Mapping[str, str]) -> Document:
    """The runtime cannot be used. What runs goes on, and only modelStatus tells."""
    model = dict(before.get("modelStatus") or {})
    states = {"activeModelState": "", **model.get("states", {}), "targetModelState": "FailedToLoad"}
    model |= {"transitionStatus": "InvalidSpec", "states": states, "lastFailureInfo": dict(failure)}
    return {**unknown(before), "modelStatus": model}


def unknown(before: Mapping[str, Any]) -> Document:
    """KServe gave up before it made anything: on a new service all is Unknown, else nothing changes."""
    if before.get("conditions"):
        return dict(before)
    conditions = [{"type": kind, "status": "Unknown"} for kind in ("IngressReady", "PredictorReady", "Ready")]
    return {"deploymentMode": "Standard", "modelStatus": {"transitionStatus": ""}, **before, "conditions": conditions}


def refused(before: Mapping[str, Any], runtime: Mapping[str, str], message: str) -> Document:
    """The API server refused the Deployment."""
    failed = {"status": "False", "reason": "ReconcileFailed", "message": message}
    conditions = [
        {"type": "IngressReady", "status": "Unknown"},
        *({"type": kind, **failed} for kind in ("PredictorReady", "Ready")),
        _STOPPED,
    ]
    model = {"transitionStatus": "", **(before.get("modelStatus") or {})}
    return {**before, "deploymentMode": "Standard", **runtime, "modelStatus": model, "conditions": conditions}


def stopped(before: Mapping[str, Any], runtime: Mapping[str, str]) -> Document:
    """By its annotation: nothing is left of the status. The runtime's name comes back with the next look at it."""
    is_known = condition(before, "Stopped").get("status") == "True"
    conditions = [{"type": kind, "status": "False", "reason": "Stopped"} for kind in ("PredictorReady", "Ready")]
    return {
        "deploymentMode": "Standard",
        "modelStatus": {"transitionStatus": ""},
        "conditions": [*conditions, {**_STOPPED, "status": "True"}],
        **(runtime if is_known else {}),
    }


def serving(
    before: Mapping[str, Any],
    runtime: Mapping[str, str],
    deployment: Mapping[str, Any],
    pods: Sequence[Mapping[str, Any]],
    urls: Mapping[str, str],
    creates_ingress: bool,
) -> Document:
    """`urls` has `service`, `predictor` and `address`. Without an ingress they are in the status from the beginning."""
    if condition(before, "Stopped").get("status") == "True":
        before = {}
    predictor = {"type": "PredictorReady", **predictor_ready(deployment)}
    is_up = predictor["status"] == "True"
    # What modelStatus says is decided before the ingress is looked at.
    was_routed = not creates_ingress or condition(before, "IngressReady").get("status") == "True"
    status = {
        **before,
        "deploymentMode": "Standard",
        **runtime,
        "modelStatus": _model_status(before.get("modelStatus") or {}, pods, is_up and was_routed),
        "components": {"predictor": (before.get("components") or {}).get("predictor") or {}},
        "conditions": _conditions(predictor, creates_ingress),
    }
    if is_up:
        status["components"] = {"predictor": {"url": urls["predictor"]}}
    if is_up or not creates_ingress:
        status |= {"url": urls["service"], "address": {"url": urls["address"]}}
    # Of the Deployment, not of the service.
    if seen := (deployment.get("status") or {}).get("observedGeneration"):
        status["observedGeneration"] = seen
    return status


def condition(status: Mapping[str, Any], kind: str) -> Document:
    """One condition of any object's status; empty where there is none."""
    return next((dict(each) for each in status.get("conditions") or () if each["type"] == kind), {})


def predictor_ready(deployment: Mapping[str, Any]) -> Document:
    """Status, reason and message of PredictorReady."""
    status = deployment.get("status") or {}
    available, progressing, failing = (
        condition(status, kind) for kind in ("Available", "Progressing", "ReplicaFailure")
    )
    if failing.get("status") == "True":
        return _as("False", failing)
    if available.get("status") == "False":
        return _as("False", available)
    if progressing.get("status") == "False":
        return _as("False", progressing)
    if available.get("status") == "True":
        return _as("True", progressing if progressing.get("reason") == "NewReplicaSetAvailable" else available)
    return _as("Unknown", progressing) if progressing else {"status": "False"}


def _as(status: str, of: Mapping[str, Any]) -> Document:
    return {"status": status, **{key: of[key] for key in ("reason", "message") if of.get(key)}}


def _conditions(predictor: Document, creates_ingress: bool) -> list[Document]:
    is_up = predictor["status"] == "True"
    routed = {"status": "True"} if is_up or not creates_ingress else {"status": "False", "reason": NO_INGRESS}
    ready = {"status": "True"} if is_up else routed if creates_ingress else predictor
    return [{"type": "IngressReady", **routed}, predictor, {**ready, "type": "Ready"}, _STOPPED]


def _model_status(before: Mapping[str, Any], pods: Sequence[Mapping[str, Any]], is_ready: bool) -> Document:
    state, failure = _newest_state(pods, is_ready)
    states = dict(before.get("states") or {"activeModelState": "", "targetModelState": "Pending"})
    transition = before.get("transitionStatus") or "InProgress"
    if state:
        transition = {"Loaded": "UpToDate", "FailedToLoad": "BlockedByFailedLoad"}.get(state, "InProgress")
        states["targetModelState"] = state
        states["activeModelState"] = "Loaded" if state == "Loaded" else states["activeModelState"]
    ready = sum(map(_is_ready, pods))
    copies = {"failedCopies": 0, **({"totalCopies": ready} if ready else {})}
    # Never cleared.
    info = {"lastFailureInfo": failure} if failure else {}
    return {**before, "transitionStatus": transition, "states": states, "copies": copies, **info}


def _is_ready(pod: Mapping[str, Any]) -> bool:
    return bool(condition(pod.get("status") or {}, "Ready").get("status") == "True")


def _newest_state(pods: Sequence[Mapping[str, Any]], is_ready: bool) -> tuple[str, Document]:
    """Empty where the pod says nothing yet. Whether the service is ready counts more than its container."""
    if not pods:
        return "Pending", {}
    # Of two that were made within one second, the one that is not ready yet.
    newest = max(pods, key=lambda pod: (pod["metadata"]["creationTimestamp"], not _is_ready(pod)))
    initializer = _container(newest, "initContainerStatuses", _INITIALIZER)
    if "running" in initializer.get("state", {}):
        return "Loading", {}
    if failure := _failure(initializer):
        return "FailedToLoad", failure
    if is_ready:
        return "Loaded", {}
    server = _container(newest, "containerStatuses", _SERVER)
    if failure := _failure(server):
        return "FailedToLoad", failure
    return ("Pending" if server else ""), {}


def _container(pod: Mapping[str, Any], key: str, name: str) -> Document:
    return next((dict(each) for each in (pod.get("status") or {}).get(key) or () if each["name"] == name), {})


def _failure(container: Mapping[str, Any]) -> Document:
    state = container.get("state", {})
    ended = state.get("terminated", {})
    if state.get("waiting", {}).get("reason") == "CrashLoopBackOff":
        ended = container.get("lastState", {}).get("terminated", {})
    elif ended.get("reason") != "Error":
        return {}
    known = {key: ended[key] for key in ("exitCode", "message") if ended.get(key)}
    return {"reason": "ModelLoadFailed", **known}
