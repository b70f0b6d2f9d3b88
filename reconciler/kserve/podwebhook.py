"""The last touches of KServe's pod webhook: metrics, accelerator, and the user of the storage initializer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from reconciler.formats import json_values
from reconciler.kserve import names
from reconciler.kserve.config import Config
from reconciler.kserve.pod import Container, Pod, set_env
from reconciler.kserve.storage import StorageError

_WHOLE = re.compile(r"[+-]?\d{1,30}", re.ASCII)
_AGGREGATED_PORT = "9088"


def finish_pod(pod: Pod, config: Config) -> None:
    """Annotations for Prometheus, the node selector of an accelerator, the initializer's user."""
    _scrape(pod, config)
    accelerator = pod.annotations.get(names.GKE_ACCELERATOR)
    if accelerator is not None and any(_has_gpu(each) for each in pod.containers):
        selector = pod.fields.get("nodeSelector") or {}
        pod.fields["nodeSelector"] = {**selector, "cloud.google.com/gke-accelerator": accelerator}
    initializer = pod.init_container(names.STORAGE_INITIALIZER)
    user = _initializer_user(pod) if initializer else None
    if initializer and user is not None:
        initializer["securityContext"] = {**(initializer.get("securityContext") or {}), "runAsUser": user}


def _initializer_user(pod: Pod) -> int | None:
    """Behind Istio's CNI only the sidecar's user reaches the network before the sidecar runs. Raises StorageError."""
    notes = pod.annotations
    if names.INITIALIZER_UID in notes:
        given = notes[names.INITIALIZER_UID]
        return int(given) if _WHOLE.fullmatch(given) and -(2**63) <= int(given) < 2**63 else None
    if pod.init_container("istio-init") or notes.get("sidecar.istio.io/interceptionMode") != "REDIRECT":
        return None
    sidecar = pod.container(_sidecar_name(notes.get("sidecar.istio.io/status")))
    if sidecar is None:
        return None
    return int((sidecar.get("securityContext") or {}).get("runAsUser", 1337))


def _sidecar_name(status: str | None) -> str:
    if status is None:
        return ""
    try:
        found = json_values.loads(status)
    except (ValueError, RecursionError) as error:
        raise StorageError(f"sidecar.istio.io/status: {error}") from None
    listed = found.get("containers") if isinstance(found, dict) else None
    return str(listed[0]) if isinstance(listed, list) and listed else ""


def _scrape(pod: Pod, config: Config) -> None:
    settings = config["metricsAggregator"]
    for key, setting in (
        (names.METRIC_AGGREGATION, "enableMetricAggregation"),
        (names.PROMETHEUS_SCRAPING, "enablePrometheusScraping"),
    ):
        pod.annotations.setdefault(key, str(settings.get(setting, "")))
    aggregated = pod.annotations[names.METRIC_AGGREGATION] == "true"
    if aggregated and (queue := pod.container("queue-proxy")):
        _aggregate(queue, pod.annotations)
    if pod.annotations[names.PROMETHEUS_SCRAPING] == "true":
        pod.annotations["prometheus.io/port"] = _AGGREGATED_PORT if aggregated else "9091"
        pod.annotations["prometheus.io/path"] = "/metrics"


def _aggregate(queue: Container, notes: Mapping[str, str]) -> None:
    """Knative's sidecar learns which metrics to add to its own."""
    set_env(queue, "KSERVE_CONTAINER_PROMETHEUS_METRICS_PORT", notes.get("prometheus.kserve.io/port", "8080"))
    set_env(queue, "KSERVE_CONTAINER_PROMETHEUS_METRICS_PATH", notes.get("prometheus.kserve.io/path", "/metrics"))
    set_env(queue, "AGGREGATE_PROMETHEUS_METRICS_PORT", _AGGREGATED_PORT)
    ports = list(queue.get("ports") or ())
    if all(port.get("name") != "aggr-metric" for port in ports):
        ports.append({"name": "aggr-metric", "containerPort": int(_AGGREGATED_PORT), "protocol": "TCP"})
    queue["ports"] = ports


def _has_gpu(container: Mapping[str, Any]) -> bool:
    return "nvidia.com/gpu" in ((container.get("resources") or {}).get("limits") or {})
