"""The annotation that opens more of an engine's paths to clients, and the mode that gives it more of them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from reconciler.config.settings import EngineSettings
from reconciler.desired.origins import Origins
from reconciler.desired.spec import UnusableField
from reconciler.host.routing.paths import ANNOTATION, find_fault
from reconciler.model import EffectiveSpec, Reason, ReasonCode

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
