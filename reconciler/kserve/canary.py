"""KServe's rules for `spec.canary`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from reconciler.kserve import names
from reconciler.kserve.autoscaling import check_replicas
from reconciler.kserve.predictor import ONE_OF_PREDICTOR, implementation_problem, implementations, storage_uri

Document = Mapping[str, Any]
_FIXED = ("maxReplicas", "scaleTarget", "scaleMetric", "autoScaling")


def check_canaries(spec: Document, mode: str, refuse: Callable[..., Exception]) -> None:
    """Raises what `refuse` makes of the message and the path."""
    canaries = spec.get("canary") or ()
    if not canaries:
        return
    stable = spec.get("predictor") or {}
    if mode != names.STANDARD:
        raise refuse("canary is only supported in Standard deployment mode", "spec", "canary")
    if storage_uri(stable) is None and "model" not in stable:
        why = "multi-model serving is not supported with canary"
        raise refuse(f"canary requires a stable predictor with a model ({why})", "spec", "canary")
    seen: set[str] = set()
    for index, canary in enumerate(canaries):
        if message := _problem(canary, index, stable, seen):
            raise refuse(message, "spec", "canary", index)
        seen.add(canary["predictor"]["name"])
    total = sum(canary.get("trafficPercent", 0) for canary in canaries)
    if total > 100:
        raise refuse(f"sum of canary trafficPercent values ({total}) must be <= 100", "spec", "canary")


def _problem(canary: Document, index: int, stable: Document, seen: set[str]) -> str:
    predictor = canary.get("predictor") or {}
    name, percent = predictor.get("name", ""), canary.get("trafficPercent", 0)
    if not name:
        return f"canary[{index}] predictor.name is required"
    if name in seen:
        return f'canary predictor.name "{name}" is duplicated'
    if name == stable.get("name"):
        return f'canary predictor.name "{name}" conflicts with stable predictor name'
    if not 0 <= percent <= 100:
        return f'canary "{name}" trafficPercent must be between 0 and 100, got {percent}'
    if message := _implementation_problem(predictor):
        return f'canary "{name}" predictor: {message}'
    if "workerSpec" in predictor:
        return f'canary "{name}" must not set workerSpec (multi-node is not yet supported for canary)'
    return _scaling_problem(name, predictor, stable)


def _implementation_problem(predictor: Document) -> str:
    found = implementations(predictor)
    if len(found) != 1:
        return ONE_OF_PREDICTOR
    if message := implementation_problem(predictor, found[0]):
        return message
    try:
        check_replicas(predictor, (), lambda message, *_: ValueError(message))
    except ValueError as error:
        return str(error)
    return ""


def _scaling_problem(name: str, predictor: Document, stable: Document) -> str:
    for key in _FIXED:
        if key in predictor and (key != "maxReplicas" or predictor[key] > 0):
            return f'canary "{name}" must not set {key} (canary uses fixed replicas)'
    least, most = predictor.get("minReplicas"), stable.get("minReplicas", 1)
    if least is not None and least > most:
        return f'canary "{name}" minReplicas ({least}) must not exceed stable predictor minReplicas ({most})'
    return ""
