"""Replicas, autoscaler metrics and the logger: KServe's rules for what every component may carry."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from reconciler.kserve import names
from reconciler.kserve.quantity import amount

Document = Mapping[str, Any]
Problem = Callable[..., Exception]
_MEBIBYTE = 1024 * 1024
_ONE_TO_HUNDRED = "the target utilization percentage should be a [1-100] integer"


def check_extension(component: Document, annotations: Mapping[str, str], at: tuple[Any, ...], refuse: Problem) -> None:
    """Raises what `refuse` makes of the message and the path."""
    check_replicas(component, at, refuse)
    mode, autoscaler = annotations.get(names.DEPLOYMENT_MODE, ""), annotations.get(names.AUTOSCALER_CLASS, "")
    if mode == names.STANDARD:
        if autoscaler == "hpa":
            _check_hpa(component, at, refuse)
        elif autoscaler == "keda":
            _check_keda(component, at, refuse)
    elif annotations.get(names.KNATIVE_AUTOSCALING_CLASS) == "hpa.autoscaling.knative.dev":
        _check_hpa(component, at, refuse)
    else:
        _check_kpa(component, at, refuse)


def check_replicas(component: Document, at: tuple[Any, ...], refuse: Problem) -> None:
    """Concurrency, replicas and the logger."""
    least, most = component.get("minReplicas", 1), component.get("maxReplicas", 0)
    if component.get("containerConcurrency", 0) < 0:
        raise refuse("parallelism cannot be less than 0", *at, "containerConcurrency")
    if least < 0:
        raise refuse("'MinReplicas' cannot be less than 0", *at, "minReplicas")
    if most < 0:
        raise refuse("'MaxReplicas' cannot be less than 0", *at, "maxReplicas")
    if least > most != 0:
        raise refuse("'MinReplicas' cannot be greater than MaxReplicas", *at, "minReplicas")
    _check_logger(component.get("logger"), at, refuse)


def _check_logger(logger: Document | None, at: tuple[Any, ...], refuse: Problem) -> None:
    if logger is None:
        return
    if logger.get("mode") not in ("all", "request", "response"):
        raise refuse("invalid logger type", *at, "logger", "mode")
    storage = logger.get("storage")
    if storage is not None and not all(key in storage for key in ("path", "parameters", "key")):
        raise refuse("invalid logger storage configuration", *at, "logger", "storage")


def _metrics(component: Document) -> Sequence[Document]:
    metrics: Sequence[Document] = (component.get("autoScaling") or {}).get("metrics") or ()
    return metrics


def _check_hpa(component: Document, at: tuple[Any, ...], refuse: Problem) -> None:
    metric, target = component.get("scaleMetric", "cpu"), component.get("scaleTarget")
    if metric not in ("cpu", "memory"):
        raise refuse(f"[{metric}] is not a supported metric", *at, "scaleMetric")
    # A memory target above 100 is refused with the text about percentages: KServe's own precedence.
    if target is not None and ((metric == "cpu" and target < 1) or target > 100):
        raise refuse(_ONE_TO_HUNDRED, *at, "scaleTarget")
    if target is not None and metric == "memory" and target < 1:
        raise refuse("the target memory should be greater than 1 MiB", *at, "scaleTarget")
    for item in _metrics(component):
        kind = item.get("type", "")
        if kind != "Resource":
            text = f"invalid HPA metric source type with value [{kind}],valid metric source types are Resource"
            raise refuse(text, *at, "autoScaling")
        if "resource" not in item:
            text = "metricSpec.Resource is not set for resource metric source type"
            raise refuse(text, *at, "autoScaling")


def _check_kpa(component: Document, at: tuple[Any, ...], refuse: Problem) -> None:
    if "deploymentStrategy" in component:
        text = "customizing deploymentStrategy is only supported for raw deployment mode"
        raise refuse(text, *at, "deploymentStrategy")
    metric = component.get("scaleMetric", "concurrency")
    if metric not in ("concurrency", "rps"):
        raise refuse(f"[{metric}] is not a supported metric", *at, "scaleMetric")
    if metric == "rps" and component.get("scaleTarget", 1) < 1:
        raise refuse("the target for rps should be greater than 1", *at, "scaleTarget")


def _check_keda(component: Document, at: tuple[Any, ...], refuse: Problem) -> None:
    if "scaleMetric" in component:
        raise refuse("ScaleMetric is not supported for KEDA", *at, "scaleMetric")
    for item in _metrics(component):
        if message := _keda_problem(item):
            raise refuse(message, *at, "autoScaling")


def _keda_problem(item: Document) -> str:
    kind = item.get("type", "")
    if kind == "Resource":
        resource = item.get("resource")
        if resource is None:
            return "metricSpec.Resource is not set for resource metric source type"
        return _resource_problem(resource) or _target_problem(resource.get("target") or {})
    for name, field, title in (("External", "external", "external"), ("PodMetric", "podmetric", "pod")):
        if kind == name:
            return _query_problem(item.get(field), name, title)
    return f"unknown KEDA metric type with value [{kind}].Valid types are Resource,External,PodMetric"


def _resource_problem(resource: Document) -> str:
    name, target = resource.get("name", ""), resource.get("target") or {}
    kind = target.get("type", "")
    if name == "cpu":
        return "" if kind == "Utilization" else "the cpu target value type should be Utilization"
    if name != "memory":
        return f"resource type {name} is not supported"
    if kind not in ("AverageValue", "Utilization"):
        return "the memory target value type should be AverageValue or Utilization"
    if kind == "AverageValue" and amount(target.get("averageValue", 0)) < _MEBIBYTE:
        return "the memory target value should be greater than 1 MiB"
    return ""


def _query_problem(source: Document | None, name: str, title: str) -> str:
    if source is None:
        return f"metricSpec.{name} is not set for {title} metric source type"
    if not (source.get("metric") or {}).get("query"):
        return "the query should not be empty"
    target = source.get("target") or {}
    return _target_problem(target) if "value" in target else "the target threshold value should not be empty"


def _target_problem(target: Document) -> str:
    kind = target.get("type", "")
    needed = {"Utilization": "averageUtilization", "AverageValue": "averageValue", "Value": "value"}.get(kind)
    if needed and needed not in target:
        return f"the {needed[0].upper()}{needed[1:]} type should be set"
    if kind == "Utilization" and not 1 <= target["averageUtilization"] <= 100:
        return _ONE_TO_HUNDRED
    return ""
