"""What annotations of an object in git ask of us: our own, and those of Flux and Argo CD that mean the same. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from reconciler.cluster.objects.paths import Path, parse_path, split_paths
from reconciler.model import DesiredObject, KubeObject, ObjectId, Reason, ReasonCode

FORCE_CONFLICTS: Final = "reconciler/force-conflicts"
TAKE_OVER: Final = "reconciler/take-over"
PRUNE: Final = "reconciler/prune"
IGNORE: Final = "reconciler/ignore"
FLUX_PRUNE: Final = "kustomize.toolkit.fluxcd.io/prune"
FLUX_RECONCILE: Final = "kustomize.toolkit.fluxcd.io/reconcile"
ARGO_OPTIONS: Final = "argocd.argoproj.io/sync-options"
ARGO_WAVE: Final = "argocd.argoproj.io/sync-wave"
DEPENDS_ON: Final = "config.kubernetes.io/depends-on"
"""Of cli-utils: `GROUP/namespaces/NAMESPACE/KIND/NAME` or `GROUP/KIND/NAME`, separated by commas."""

_Value = TypeVar("_Value")
_LONGEST = 4_000
_MOST_WAVES = 1_000_000


@dataclass(frozen=True, slots=True)
class Options:
    """`take_over`: it may become ours though others made it. `reconciles` is False where git asks us to leave the
    object alone. `prune` is False where it stays when git does not have it any more. `wave` is its sync wave, lower
    ones first. `warnings` are values that say nothing."""

    force_conflicts: bool = False
    take_over: bool = False
    prune: bool = True
    reconciles: bool = True
    wave: int = 0
    depends_on: tuple[ObjectId, ...] = ()
    ignore: tuple[Path, ...] = ()
    warnings: tuple[Reason, ...] = ()


def options_of(desired: DesiredObject) -> Options:
    """What git says; what it says wrongly counts as not said."""
    found = _Annotations(desired)
    return Options(
        force_conflicts=found.read(FORCE_CONFLICTS, _truth, False),
        take_over=found.read(TAKE_OVER, _truth, False),
        prune=is_prunable(desired.body) and found.read(PRUNE, _switch, True),
        reconciles=found.read(FLUX_RECONCILE, _flux_switch, True),
        wave=found.read(ARGO_WAVE, _wave, 0),
        depends_on=found.read(DEPENDS_ON, _ids, ()),
        ignore=found.read(IGNORE, _paths, ()),
        warnings=tuple(found.warnings),
    )


def is_prunable(body: KubeObject) -> bool:
    """May it be deleted when git does not have it any more? Asked of live objects as well."""
    annotations = annotations_of(body)
    disabled = (annotations.get(key) == "disabled" for key in (PRUNE, FLUX_PRUNE))
    return not any(disabled) and not _argo_keeps(annotations.get(ARGO_OPTIONS, ""))


def annotations_of(body: KubeObject) -> Mapping[str, str]:
    """Those whose value is text; others the API server refuses."""
    found = (body.get("metadata") or {}).get("annotations")
    if not isinstance(found, dict):
        return {}
    return {key: value for key, value in found.items() if isinstance(value, str)}


def _argo_keeps(options: str) -> bool:
    """`Prune=confirm` waits for a person, who has our own `approve` only for all that is deleted at once."""
    return any(option.strip() in ("Prune=false", "Prune=confirm") for option in options.split(","))


class _Annotations:
    def __init__(self, desired: DesiredObject) -> None:
        self._desired = desired
        self._values = annotations_of(desired.body)
        self.warnings: list[Reason] = []

    def read(self, key: str, parse: Callable[[str], _Value], default: _Value) -> _Value:
        if (text := self._values.get(key)) is None:
            return default
        try:
            if len(text) > _LONGEST:
                raise ValueError(f"it is longer than {_LONGEST:,} characters")
            return parse(text)
        except ValueError as error:
            origin = self._desired.origin_of(f"metadata.annotations.{key}")
            message = f"annotation {key} of {self._desired.id} has no effect: {error}"
            self.warnings.append(Reason(ReasonCode.INVALID_ANNOTATION, message, origin))
            return default


def _truth(text: str) -> bool:
    return _one_of(text, {"true": True, "false": False})


def _switch(text: str) -> bool:
    return _one_of(text, {"disabled": False, "enabled": True})


def _flux_switch(text: str) -> bool:
    # Flux asks for `disabled` alone; whatever else stands there changes nothing.
    return text != "disabled"


def _one_of(text: str, values: Mapping[str, bool]) -> bool:
    if text not in values:
        raise ValueError(f'"{text[:40]}" is neither {" nor ".join(chr(34) + each + chr(34) for each in values)}')
    return values[text]


def _wave(text: str) -> int:
    try:
        wave = int(text)
    except ValueError:
        raise ValueError(f'"{text[:40]}" is no whole number') from None
    if abs(wave) > _MOST_WAVES:
        raise ValueError(f"{text[:40]} is beyond {_MOST_WAVES:,}")
    return wave


def _paths(text: str) -> tuple[Path, ...]:
    return tuple(parse_path(each) for each in split_paths(text))


def _ids(text: str) -> tuple[ObjectId, ...]:
    return tuple(_id(each.strip()) for each in text.split(",") if each.strip())


def _id(text: str) -> ObjectId:
    match text.split("/"):
        case [group, "namespaces", namespace, kind, name] if namespace and kind and name:
            return ObjectId(group, kind, namespace, name)
        case [group, kind, name] if kind and name:
            return ObjectId(group, kind, "", name)
    raise ValueError(f'"{text[:80]}" is neither GROUP/namespaces/NAMESPACE/KIND/NAME nor GROUP/KIND/NAME')
