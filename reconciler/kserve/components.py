"""What every component may carry: replicas, autoscaler metrics, logger, canary; transformer and explainer. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from reconciler.kserve import names
from reconciler.kserve.config import Config
from reconciler.kserve.issues import Issue
from reconciler.kserve.pod import Pod, add_default_fields
from reconciler.kserve.pod_validation import deployment_problems, service_problems, strategy_problems, word_problems
from reconciler.kserve.predictor import ONE_OF_PREDICTOR, implementation_problem, implementations, storage_uri
from reconciler.kserve.quantity import amount
from reconciler.kserve.url import UrlError, host_name
from reconciler.model import ReasonCode

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


def component_problems(service: Document, config: Config) -> Iterator[Issue]:
    """Why the Deployment of a transformer or a custom explainer cannot be made in mode Standard."""
    for kind in ("transformer", "explainer"):
        component = (service.get("spec") or {}).get(kind) or {}
        if not component.get("containers"):
            continue
        name = f"{service['metadata'].get('name', '')}-{kind}"
        for text in _problems(component, name, service["metadata"], config):
            yield Issue(ReasonCode.RECONCILE_FAILED, f"fails to reconcile {kind}: {text}", ("spec", kind))


def _problems(component: Document, name: str, metadata: Document, config: Config) -> Iterator[str]:
    pod = _pod(component, name, metadata)
    for text in (
        *deployment_problems(pod),
        *word_problems(pod),
        *strategy_problems(component.get("deploymentStrategy")),
    ):
        yield f'Deployment.apps "{name}" is invalid: {text}'
    for text in service_problems(pod.containers[0]):
        yield f'Service "{name}" is invalid: {text}'
    try:
        host_name(name, metadata, config)
    except UrlError as error:
        yield f"failed creating host name: {error}"


def _pod(component: Document, name: str, metadata: Document) -> Pod:
    labels = {**(metadata.get("labels") or {}), **(component.get("labels") or {})}
    pod = Pod(
        labels={**labels, names.SERVICE_LABEL: metadata.get("name", ""), "app": f"isvc.{name}"},
        containers=[dict(each) for each in component["containers"]],
        init_containers=[dict(each) for each in component.get("initContainers") or ()],
        volumes=list(component.get("volumes") or ()),
        fields={key: component[key] for key in ("tolerations", "nodeSelector") if key in component},
    )
    add_default_fields(pod)
    return pod
