"""Variables of a service that its host leaves out, each with its line. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from reconciler.desired.origins import Origins
from reconciler.desired.secrets import Keyring
from reconciler.engines.environment import find_engine, loads_code
from reconciler.model import EffectiveSpec, Reason, ReasonCode
from reconciler.model.model_sources import shown
from reconciler.secrets.store import ALL, secret_ref

_WHY = "it can load code other than vLLM into every process of the engine"
_CODE = "it can load other code"


def ignored_variables(spec: EffectiveSpec, ring: Keyring, origins: Origins) -> Iterator[Reason]:
    """Those that would load code into an interpreter of the host. A container may have them: its image is the wall.

    What fetches a model never runs in one.
    """
    yield from _ignored_while_fetching(spec, ring, origins)
    engine = find_engine(spec.image, ring.target.engines)
    if engine is None or engine.podman:
        return
    for name, key in _named(spec, ring):
        if name not in engine.env:
            hint = f"the host's own settings may give it: targets[].engines[].env of {ring.target.name}"
            text = f"variable {name} is ignored on a host: {_WHY}; {hint}"
            yield Reason(ReasonCode.FIELD_IGNORED, text, origins.of_variable(key))


def _ignored_while_fetching(spec: EffectiveSpec, ring: Keyring, origins: Origins) -> Iterator[Reason]:
    storage = ring.target.storage
    for mount in spec.mounts:
        for name, _ in _named(replace(spec, env=mount.env), ring):
            if name not in storage.env:
                hint = f"the host's own settings may give it: targets[].storage.env of {ring.target.name}"
                text = f"variable {name} is ignored while {shown(mount.uri)} is fetched on a host: {_CODE}; {hint}"
                yield Reason(ReasonCode.FIELD_IGNORED, text, origins.of_storage(mount.uri))


def _named(spec: EffectiveSpec, ring: Keyring) -> Iterator[tuple[str, str]]:
    """Each with the name by which the container asks for it: of a whole Secret only that is written."""
    for variable in spec.env:
        ref = secret_ref(variable)
        if ref and ref.key == ALL:
            prefix = variable.name.removesuffix(ALL)
            names = [prefix + key for key in ring.store.data(ring.namespace, ref.secret) or ()]
            yield from ((name, variable.name) for name in sorted(names) if loads_code(name))
        elif loads_code(variable.name, None if variable.source else variable.value):
            yield variable.name, variable.name
