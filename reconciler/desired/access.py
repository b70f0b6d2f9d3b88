"""What of a replica's own paths clients and Prometheus may reach, from the pod's annotations. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from reconciler.config.settings import EngineSettings
from reconciler.desired.origins import Origins
from reconciler.desired.spec import UnusableField
from reconciler.engines.arguments import speaks_grpc, values_of
from reconciler.host.routing.paths import ANNOTATION, find_fault
from reconciler.kserve import names
from reconciler.model import EffectiveSpec, Reason, ReasonCode

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


_MODE = "VLLM_SERVER_DEV_MODE"
_OFF = ("", "0")


def read_open_paths(pod: Mapping[str, Any], origins: Origins) -> tuple[str, ...]:
    """What it names, by commas or spaces. Raises UnusableField."""
    given = str((pod.get("annotations") or {}).get(ANNOTATION) or "")
    paths = tuple(sorted(set(given.replace(",", " ").split())))
    if fault := find_fault(paths):
        raise UnusableField(
            Reason(ReasonCode.INVALID_ANNOTATION, f"{ANNOTATION}: {fault}", origins.of_annotation(ANNOTATION))
        )
    return paths


def developer_mode(spec: EffectiveSpec, origins: Origins, engine: EngineSettings | None) -> Iterator[Reason]:
    """The proxy opens none of what it adds, but others may reach the engine itself. Variables of the config win."""
    text = (
        "enables engine endpoints (/collective_rpc, /sleep, /update_weights…) that need no key; "
        "the proxy blocks them, but programs on this host can call them: remove the variable"
    )
    if engine is not None and _MODE in engine.env:
        if engine.env[_MODE].strip() not in _OFF:
            text = f"the config, engines[].env of {engine.image}: {_MODE} {text}"
            yield Reason(ReasonCode.DEVELOPER_MODE, text, origins.service.origin)
    elif any(each.name == _MODE and (each.source or each.value.strip() not in _OFF) for each in spec.env):
        yield Reason(ReasonCode.DEVELOPER_MODE, f"{_MODE} {text}", origins.of_variable(_MODE))
