"""Whether and where Prometheus finds a replica's own metrics: the pod's annotations, read for a host. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reconciler.engines.arguments import speaks_grpc, values_of
from reconciler.kserve import names
from reconciler.model import EffectiveSpec

PATH = "prometheus.io/path"
PORT = "prometheus.io/port"
SCRAPE = "prometheus.io/scrape"
_DEFAULT_PATH = "/metrics"
# KServe's for a container that names none, and vLLM's.
_DEFAULT_PORTS = frozenset({"8080", "8000"})


def metrics_path(pod: Mapping[str, Any], container: Mapping[str, Any], spec: EffectiveSpec) -> str | None:
    """The path of a replica's metrics; None: it is not to be scraped, or nothing would answer."""
    annotations = pod.get("annotations") or {}
    if speaks_grpc(spec.command_line):
        return None
    if str(annotations.get(SCRAPE, "")).lower() == "false" or not is_scraped_port(pod, container, spec):
        return None
    path = str(annotations.get(PATH) or _DEFAULT_PATH)
    return path if path.startswith("/") else f"/{path}"


def is_scraped_port(pod: Mapping[str, Any], container: Mapping[str, Any], spec: EffectiveSpec) -> bool:
    """Does the annotation mean the port that a host leases in the container's place?"""
    annotations = pod.get("annotations") or {}
    if PORT not in annotations or annotations.get(names.PROMETHEUS_SCRAPING) == "true":
        # KServe itself put the port of its metrics proxy there, which stands in front of the same metrics.
        return True
    ports = {str(each.get("containerPort")) for each in container.get("ports") or ()}
    ports |= set(values_of(spec.command_line, "--port"))
    return str(annotations[PORT]) in (ports or _DEFAULT_PORTS)
