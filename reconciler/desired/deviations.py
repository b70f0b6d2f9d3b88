"""What one service asks for that its target does otherwise, ignores or refuses: the support table applied. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from reconciler.config.settings import HostSettings
from reconciler.config.values import is_loopback
from reconciler.desired.access import is_scraped_port
from reconciler.desired.origins import Origins, at
from reconciler.desired.serving_options import is_stopped, may_have_none, wants_passthrough
from reconciler.desired.support import Effect, Fact, SupportRow, TargetKind, Where, find_row
from reconciler.engines.arguments import ends_tls
from reconciler.engines.container import asks_for_key
from reconciler.formats import json_values
from reconciler.kserve.resolve import Resolved
from reconciler.kserve.validation import is_decrypted
from reconciler.manifests import FieldPath, Manifest
from reconciler.model import GPU, EffectiveSpec, Origin, Reason

_ACCELERATORS = "opendatahub.io/recommended-accelerators"


@dataclass(frozen=True, slots=True)
class Case:
    """One service, resolved for one host."""

    origins: Origins
    resolved: Resolved
    container: Mapping[str, Any]
    spec: EffectiveSpec
    replicas: int
    target: HostSettings


def known_facts(case: Case) -> frozenset[Fact]:
    """What certainly holds. With `gpus: auto` it is unknown here which GPUs exist: then that condition holds too."""
    return frozenset(_facts(case))


def depends_on_gpus(case: Case) -> bool:
    """Does a fact hold only if the host turns out to have a GPU?"""
    return case.target.gpus == "auto" and GPU in (_recommended(case.origins) or ())


def _facts(case: Case) -> Iterator[Fact]:
    predictor = at(case.origins.service, ("spec", "predictor"))
    highest = predictor.get("maxReplicas")
    if predictor.get("minReplicas") != 0 or may_have_none(case.origins.service) or is_stopped(case.origins.service):
        yield Fact.COUNTED
    if not isinstance(highest, int) or highest <= max(case.replicas, 1):
        yield Fact.FIXED_SCALE
    canaries = at(case.origins.service, ("spec",)).get("canary")
    if not isinstance(canaries, list) or len(canaries) <= 1:
        yield Fact.ONE_CANARY
    has_tls = ends_tls(case.spec.command_line)
    if has_tls:
        yield Fact.TLS
    if asks_for_key(case.spec) and not (has_tls and wants_passthrough(case.origins.service)):
        yield Fact.AUTH
    if is_scraped_port(case.resolved.pod, case.container, case.spec):
        yield Fact.SCRAPED_PORT
    if not is_decrypted(case.resolved.defaulted):
        yield Fact.NOT_ENCRYPTED
    if is_loopback(case.target.routing.listen):
        yield Fact.PRIVATE
    recommended = _recommended(case.origins)
    if recommended is None or (GPU in recommended and case.target.gpus != ()):
        yield Fact.ACCELERATOR


def _recommended(origins: Origins) -> frozenset[str] | None:
    """Kinds of accelerator that the runtime is meant for; None where it says nothing that can be read."""
    if origins.runtime is None:
        return None
    try:
        kinds = json_values.loads(str(at(origins.runtime, ("metadata", "annotations")).get(_ACCELERATORS)))
    except (ValueError, RecursionError):
        return None
    named = frozenset(kind for kind in kinds if isinstance(kind, str)) if isinstance(kinds, list) else frozenset()
    return named or None


ALL_FACTS = frozenset(Fact)

_TEXT = {
    Effect.IGNORED: "{name} is ignored on a {place}: {note}",
    Effect.NO_EFFECT: "{name} has no effect on a {place}: {note}",
    Effect.REFUSED: "{name} is not supported on a {place}: {note}",
}
_METADATA = (("annotations", Where.ANNOTATION), ("labels", Where.LABEL))
# Lists in which only some entries count; the code that merged them knows which.
_BY_NAME = frozenset({"containers", "initContainers", "volumes"})


@dataclass(frozen=True, slots=True)
class Deviation:
    """One field that a target does not simply support."""

    effect: Effect
    reason: Reason


def deviations(origins: Origins, place: TargetKind, facts: frozenset[Fact]) -> Iterator[Deviation]:
    """Everything written in a service, or in its runtime for it, that the target does not simply support."""
    for where, manifest, path in _written(origins):
        for key, value in at(manifest, path).items():
            row = find_row(where, key) if isinstance(key, str) else None
            if row is None or not row.counts(value) or (where is Where.POD and key in _BY_NAME):
                continue
            name = f"{where.value} {key}" if where in (Where.ANNOTATION, Where.LABEL) else _name((*path, key))
            if found := _deviation(row, place, facts, name, manifest.origin_of((*path, key))):
                yield found


def entries_ignored(key: str, names: Iterable[str], origins: Origins) -> Iterator[Reason]:
    """The findings about entries of `containers`, `initContainers` or `volumes` that a host leaves out."""
    row = find_row(Where.POD, key)
    for name in names if row else ():
        # What KServe added by itself is not reported: no user can remove it.
        where = origins.find_entry(key, name)
        if row and where and (found := _deviation(row, TargetKind.HOST, frozenset(), f"{_KINDS[key]} {name}", where)):
            yield found.reason


_KINDS = {"containers": "container", "initContainers": "init container", "volumes": "volume"}


def of_document(manifest: Manifest, place: TargetKind) -> Deviation | None:
    """The findings about a document whose kind has no effect on this target."""
    row = find_row(Where.KIND, manifest.kind)
    name = f"{manifest.kind} {manifest.name}"
    return _deviation(row, place, frozenset(), name, manifest.origin) if row else None


def _deviation(
    row: SupportRow, place: TargetKind, facts: frozenset[Fact], name: str, origin: Origin
) -> Deviation | None:
    outcome = row.at(place)
    if outcome.effect is Effect.HONOURED or outcome.unless in facts:
        return None
    text = _TEXT[outcome.effect].format(name=name, place=place, note=outcome.note)
    return Deviation(outcome.effect, Reason(outcome.code, text, origin))


def _written(origins: Origins) -> Iterator[tuple[Where, Manifest, FieldPath]]:
    service, runtime = origins.service, origins.runtime
    yield Where.SPEC, service, ("spec",)
    for where in (Where.PREDICTOR, Where.POD):
        yield where, service, ("spec", "predictor")
    for where in (Where.RUNTIME, Where.POD) if runtime else ():
        yield where, runtime or service, ("spec",)
    for manifest, path in origins.written_containers():
        yield Where.CONTAINER, manifest, path
    for key, where in _METADATA:
        yield where, service, ("metadata", key)
        yield where, service, ("spec", "predictor", key)
        if runtime:
            yield where, runtime, ("metadata", key)
            yield where, runtime, ("spec", key)


def _name(path: FieldPath) -> str:
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.removeprefix(".")
