"""What of a service its host does without: containers, volumes, resources, variables. Each with its line. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from reconciler.desired.deviations import Case, entries_ignored
from reconciler.desired.origins import CONTAINER, Origins
from reconciler.desired.resources import ignored_resources
from reconciler.desired.secrets import Keyring
from reconciler.desired.spec import names_of
from reconciler.desired.volumes import ignored_sources, ignored_volumes
from reconciler.engines.environment import find_engine, loads_code
from reconciler.kserve.names import TRANSFORMER_CONTAINER
from reconciler.model import EffectiveSpec, Reason, ReasonCode
from reconciler.model.model_sources import shown
from reconciler.secrets.store import ALL, secret_ref

_ADDED_BY_KSERVE = frozenset({CONTAINER, TRANSFORMER_CONTAINER, "storage-initializer", "modelcar", "modelcar-init"})
_WHY = "it can load code other than vLLM into every process of the engine"
_CODE = "it can load other code"


def ignored_entries(case: Case) -> Iterator[Reason]:
    """Containers, volumes and resources."""
    origins, pod = case.origins, case.resolved.pod
    for key in ("containers", "initContainers"):
        yield from entries_ignored(key, names_of(pod.get(key), _ADDED_BY_KSERVE), origins)
    yield from entries_ignored("volumes", ignored_volumes(case.resolved, case.container), origins)
    for name, source in ignored_sources(case.resolved, case.container):
        text = f"{source} of volume {name} is ignored on a host: there is no Kubernetes API to issue or store it"
        yield Reason(ReasonCode.VOLUME_IGNORED, text, origins.of_entry("volumes", name))
    yield from ignored_resources(case.container, origins)


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
