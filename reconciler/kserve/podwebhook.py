"""The last touches of KServe's pod webhook: metrics, accelerator, and the user of the storage initializer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reconciler.kserve import names
from reconciler.kserve.config import Config
from reconciler.kserve.pod import Pod


def finish_pod(pod: Pod, config: Config) -> None:
    """Annotations for Prometheus, the node selector of an accelerator, the initializer's user."""
    _scrape(pod, config)
    accelerator = pod.annotations.get(names.GKE_ACCELERATOR)
    if accelerator is not None and any(_has_gpu(each) for each in pod.containers):
        selector = pod.fields.get("nodeSelector") or {}
        pod.fields["nodeSelector"] = {**selector, "cloud.google.com/gke-accelerator": accelerator}
    initializer = pod.init_container(names.STORAGE_INITIALIZER)
    user = pod.annotations.get(names.INITIALIZER_UID, "")
    if initializer and user.isascii() and user.isdigit():
        initializer["securityContext"] = {**(initializer.get("securityContext") or {}), "runAsUser": int(user[:18])}


def _scrape(pod: Pod, config: Config) -> None:
    settings = config["metricsAggregator"]
    for key, setting in (
        (names.METRIC_AGGREGATION, "enableMetricAggregation"),
        (names.PROMETHEUS_SCRAPING, "enablePrometheusScraping"),
    ):
        pod.annotations.setdefault(key, str(settings.get(setting, "")))
    if pod.annotations[names.PROMETHEUS_SCRAPING] == "true":
        aggregated = pod.annotations[names.METRIC_AGGREGATION] == "true"
        pod.annotations["prometheus.io/port"] = "9088" if aggregated else "9091"
        pod.annotations["prometheus.io/path"] = "/metrics"


def _has_gpu(container: Mapping[str, Any]) -> bool:
    return "nvidia.com/gpu" in ((container.get("resources") or {}).get("limits") or {})
