"""The digest: a hash of what runs. Equal digest, no restart needed. Pure."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields, replace
from typing import Any

from reconciler.engines.arguments import normalise
from reconciler.model import EffectiveSpec, Mount, Resources, texts

# Fields that specs did not always have: unset they do not count, or an upgrade would restart every replica.
_ADDED = frozenset(
    {
        (EffectiveSpec, "secrets"),
        (EffectiveSpec, "files"),
        (Mount, "env"),
        (Mount, "files"),
        (Resources, "cpu_limit_millis"),
        (Resources, "memory_limit_bytes"),
        (Resources, "gpu_share_millis"),
    }
)


def digest(spec: EffectiveSpec) -> str:
    """16 hex digits. Ways of writing an argument do not count; the order of variables does (`$(VAR)` looks back).

    A certificate that fetching a model needs is not part of what runs.
    """
    written = replace(spec, mounts=tuple(replace(each, files=()) for each in spec.mounts))
    canonical = json.dumps(written, default=_fields, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _fields(value: Any) -> dict[str, Any]:
    found = {each.name: getattr(value, each.name) for each in fields(value)}
    if isinstance(value, EffectiveSpec):
        # Of arguments their texts alone: which line one stands in changes nothing.
        found |= {"command": texts(value.command), "args": normalise(value.args)}
    return {name: one for name, one in found.items() if one or (type(value), name) not in _ADDED}


def equivalent(a: EffectiveSpec, b: EffectiveSpec) -> bool:
    """True when two specs differ in nothing but their arguments, which only the engine's parser can compare."""
    return replace(a, args=()) == replace(b, args=())
