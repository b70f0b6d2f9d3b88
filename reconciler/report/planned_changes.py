"""What a plan changes of one service: which fields of git, in which lines, and how many GPUs it has then. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from reconciler.engines.arguments import options
from reconciler.fault_isolation import caught
from reconciler.host.capacity import WHOLE
from reconciler.model import Desired, DesiredState, EffectiveSpec, NoOrigin, Observed, Origin, ServiceId
from reconciler.report.diff import Change, running_spec, service_diff
from reconciler.report.status import Document

_MOST = 30


def changes_of(desired: DesiredState, observed: object) -> Mapping[ServiceId, list[Document]]:
    """By service of a host, what git wants otherwise than what runs now; none of what does not run yet."""
    if not isinstance(observed, Observed):
        return {}
    return {one.id: _changes_safely(one, observed) for one in desired.services}


def gpus_then(desired: Iterable[Desired]) -> Mapping[ServiceId, float]:
    """By service, how many GPUs its replicas have once all is as git wants it; a share counts as the part it is."""
    return {one.id: _gpus(one) for one in desired}


def _gpus(desired: Desired) -> float:
    replicas = [(desired.spec, desired.replicas)]
    if desired.canary and desired.replicas:
        replicas.append((desired.canary.spec, desired.canary.replicas))
    millis = sum(_millis(spec) * count for spec, count in replicas)
    return millis / WHOLE if millis % WHOLE else millis // WHOLE


def _millis(spec: EffectiveSpec | None) -> int:
    return spec.resources.gpu_devices * (spec.resources.gpu_share_millis or WHOLE) if spec else 0


def _changes_safely(desired: Desired, observed: Observed) -> list[Document]:
    """A service that raises is shown without them, and hides no other."""
    try:
        running = running_spec(observed, desired.id)
        if running is None or desired.spec is None:
            return []
        found = service_diff(desired, running).changes
        return [_document(change, desired, desired.spec) for change in found[:_MOST]]
    except Exception as error:
        reason, _ = caught(error, f"comparing {desired.id}")
        return [{"path": [], "before": None, "after": reason.message, "file": None, "line": None}]


def _document(change: Change, desired: Desired, spec: EffectiveSpec) -> Document:
    origin = _origin(change.path, desired, spec)
    where = origin if isinstance(origin, Origin) else None
    return {
        "path": list(change.path),
        "before": change.before,
        "after": change.after,
        "file": where.file if where else None,
        "line": where.line if where else None,
    }


def _origin(path: tuple[str, ...], desired: Desired, spec: EffectiveSpec) -> Origin | NoOrigin | None:
    """The line of git that says so; None for what git does not name any more."""
    section, name = path[0], path[-1]
    match section:
        case "args":
            return next(
                (written[0].origin for flag, written in options(spec.args) if (flag or "(words)") == name), None
            )
        case "env":
            return dict(desired.variable_origins).get(name)
        case "mounts":
            return dict(desired.mount_origins).get(name)
        case "resources":
            return desired.resources_origin
        case "command":
            return next((each.origin for each in spec.command), None)
        case _:
            return None
