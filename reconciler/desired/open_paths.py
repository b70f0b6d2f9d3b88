"""The annotation that opens more of an engine's paths to clients, and the mode that gives it more of them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from reconciler.desired.effective import Unusable
from reconciler.desired.origins import Origins
from reconciler.model import EffectiveSpec, Reason
from reconciler.routing.paths import ANNOTATION, find_fault

_MODE = "VLLM_SERVER_DEV_MODE"
_OFF = ("", "0")


def read_open_paths(pod: Mapping[str, Any], origins: Origins) -> tuple[str, ...]:
    """What it names, by commas or spaces. Raises Unusable."""
    given = str((pod.get("annotations") or {}).get(ANNOTATION) or "")
    paths = tuple(sorted(set(given.replace(",", " ").split())))
    if fault := find_fault(paths):
        raise Unusable(Reason("InvalidAnnotation", f"{ANNOTATION}: {fault}", origins.of_annotation(ANNOTATION)))
    return paths


def developer_mode(spec: EffectiveSpec, origins: Origins) -> Iterator[Reason]:
    """The proxy opens none of what it adds, but others may reach the engine itself."""
    if any(each.name == _MODE and (each.source or each.value.strip() not in _OFF) for each in spec.env):
        text = (
            f"{_MODE} gives the engine switches (/collective_rpc, /sleep, /update_weights…) that ask for no key; "
            "the proxy refuses them, but programs of this host may use them: remove the variable"
        )
        yield Reason("DeveloperMode", text, origins.of_variable(_MODE))
