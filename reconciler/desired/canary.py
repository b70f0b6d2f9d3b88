"""`spec.canary[]`: a second predictor, read as if it were the service's own and added to it. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from reconciler.formats.strict_yaml import find, line_at
from reconciler.manifests import Manifest
from reconciler.model import Canary, Desired, Reason, ReasonCode

_PATH = ("spec", "canary", 0)


def with_canary(service: Manifest, stable: Desired, describe: Callable[[Manifest], Desired]) -> Desired:
    """The service with its second version. What is wrong with that one is wrong with the service: nothing changes."""
    entry = _entry(service)
    if entry is None or stable.spec is None or stable.not_here:
        return stable
    other = describe(_alone(service, entry))
    told = set(stable.warnings)
    warnings = (*stable.warnings, *(each for each in other.warnings if each not in told))
    if other.spec is None:
        return replace(stable, spec=None, digest="", problems=other.problems, warnings=warnings)
    if other.digest == stable.digest:
        text = "the canary is the same as the predictor; no canary replica runs"
        return replace(
            stable, warnings=(*warnings, Reason(ReasonCode.CANARY_UNCHANGED, text, service.origin_of(_PATH)))
        )
    if not other.replicas:
        return replace(stable, warnings=warnings)
    percent = int(entry.get("trafficPercent") or 0)
    canary = Canary(
        other.spec,
        other.digest,
        percent,
        other.replicas,
        other.blocked,
        other.variable_origins,
        other.resources_origin,
        other.mount_origins,
    )
    return replace(stable, canary=canary, warnings=warnings)


def _entry(service: Manifest) -> dict[str, Any] | None:
    """The first entry; more than one is refused elsewhere."""
    spec = service.data.get("spec")
    entries = spec.get("canary") if isinstance(spec, dict) else None
    first = entries[0] if isinstance(entries, list) and entries else None
    return first if isinstance(first, dict) and isinstance(first.get("predictor"), dict) else None


def _alone(service: Manifest, entry: dict[str, Any]) -> Manifest:
    """A document in which the canary's predictor is the only one; every field keeps its line."""
    data = {**service.data, "spec": {"predictor": entry["predictor"]}}
    lines = service.lines
    if isinstance(lines, tuple):
        inside = find(service.data, lines, (*_PATH, "predictor"))[1]
        spec = (line_at(inside), (inside,))
        children = tuple(spec if key == "spec" else child for key, child in zip(service.data, lines[1], strict=True))
        lines = (lines[0], children)
    return replace(service, data=data, lines=lines, warnings=())
