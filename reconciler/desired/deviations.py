"""Fields of a service that its target ignores, refuses or treats differently: the support table applied. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from reconciler.desired.origins import Origins, at
from reconciler.desired.support import Effect, Fact, SupportRow, TargetKind, Where, find_row
from reconciler.manifests import FieldPath, Manifest
from reconciler.model import Origin, Reason

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
