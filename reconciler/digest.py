"""The digest: a hash of what runs. Equal digest, no restart needed. Pure."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace

from reconciler.engines.arguments import normalise
from reconciler.model import EffectiveSpec


def digest(spec: EffectiveSpec) -> str:
    """16 hex digits. Ways of writing an argument do not count; the order of variables does (`$(VAR)` looks back)."""
    canonical = json.dumps(asdict(replace(spec, args=normalise(spec.args))), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def equivalent(a: EffectiveSpec, b: EffectiveSpec) -> bool:
    """True when two specs differ in nothing but their arguments, which only the engine's parser can compare."""
    return replace(a, args=()) == replace(b, args=())
