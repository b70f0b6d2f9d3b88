"""What the page of a service shows beside the status: what would be started of it, and the end of its log.

Asked for by HTTP: it follows from the last pass, and waits for none.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from reconciler.config.settings import ClusterSettings, HostSettings
from reconciler.engines.arguments import model_names
from reconciler.engines.container import asks_for_key
from reconciler.errors import ReconcileError
from reconciler.host.systemd.unit import unit_name
from reconciler.kserve.names import KSERVE_CONTAINER
from reconciler.loop.wiring import ManagedTarget
from reconciler.model import Argument, Desired, DesiredObject, EffectiveSpec, Observed, ServiceId
from reconciler.preview.on_host import started_on
from reconciler.report.redact import scrub, scrub_text
from reconciler.report.status import Document
from reconciler.state.target_registry import TargetRegistry

# An API server may take its time, and other pages need threads as well.
_READING = threading.BoundedSemaphore(8)


def service_details(
    places: Iterable[ManagedTarget], target: str, service: ServiceId, lines: int, state_dir: Path
) -> Document:
    """`workload`: what git's version starts, None where git has none that can be used. `logFault`: why there is no
    log. `units`: those of its replicas, by their IDs."""
    place = next((each for each in places if each.settings.name == target), None)
    if place is None:
        gone = f"{target} is no target of this daemon any more"
        return {"workload": None, "log": [], "logFault": gone, "units": {}}
    log, fault = _log(place, service, lines)
    workload = _workload(place, state_dir, service)
    return {"workload": workload, "log": log, "logFault": fault, "units": _units(place, service)}


def _units(place: ManagedTarget, service: ServiceId) -> dict[str, str]:
    seen = place.reconciler.report.observed
    if place.settings.kind != "systemd" or not isinstance(seen, Observed):
        return {}
    replicas = (each.id for each in seen.replicas if each.service == service)
    return {str(one): unit_name(place.settings.name, one) for one in replicas}


def _log(place: ManagedTarget, service: ServiceId, lines: int) -> tuple[list[str], str]:
    if not _READING.acquire(blocking=False):
        return [], "as many logs as may be are being read just now; load the page again"
    try:
        return [scrub_text(line) for line in place.target.logs(service, lines)[-lines:]], ""
    except ReconcileError as error:
        return [], scrub_text(str(error))
    finally:
        _READING.release()


def _workload(place: ManagedTarget, state_dir: Path, service: ServiceId) -> Document | None:
    state = place.reconciler.report.desired
    desired = next((one for one in state.services if one.id == service), None) if state else None
    if state is None or desired is None or desired.spec is None:
        return None
    match place.settings:
        case HostSettings():
            folder = TargetRegistry(state_dir).folder_of(place.settings.name)
            started = started_on(desired, place.settings, folder) | {"runtime": None}
        case ClusterSettings():
            started = _rendered(next((one for one in state.objects if one.service == service), None))
    return {"digest": desired.digest, **started, **_written(desired, desired.spec)}


def _rendered(git: DesiredObject | None) -> Document:
    """The container of the server as KServe makes it; what it does otherwise than git tells is not known."""
    found = git.rendered if git else None
    server = (found.container(KSERVE_CONTAINER) if found else None) or {}
    words = [str(word) for key in ("command", "args") for word in server.get(key) or ()]
    return {
        "interpreter": None,
        "image": server.get("image"),
        "argv": scrub(words) if found else None,
        "env": dict(map(_variable, server.get("env") or ())) if found else None,
        "runtime": str(found.runtime) if found and found.runtime else None,
    }


def _variable(given: Mapping[str, Any]) -> tuple[str, str]:
    """Where its value comes from, where git has none."""
    name = str(given.get("name"))
    for kind, source in (given.get("valueFrom") or {}).items():
        place = "/".join(str(source[key]) for key in ("name", "key", "fieldPath", "resource") if source.get(key))
        return name, f"<{kind.removesuffix('KeyRef').removesuffix('Ref')} {place}>"
    return name, str(scrub(str(given.get("value") or ""), name))


def _written(desired: Desired, spec: EffectiveSpec) -> Document:
    return {
        "arguments": list(_arguments(spec.command_line)),
        "asksForKey": asks_for_key(spec),
        "passthrough": desired.passthrough,
        "grpc": desired.grpc,
        "http": desired.http,
        "models": [scrub_text(name) for name in model_names(spec)],
    }


def _arguments(given: Sequence[Argument]) -> Iterator[Document]:
    """Each as git writes it, with the file and line where that is; those that KServe adds have none."""
    words = scrub([one.text for one in given])
    for one, word in zip(given, words if isinstance(words, list) else (), strict=True):
        yield {
            "text": word,
            "file": one.origin.file if one.origin else None,
            "line": one.origin.line if one.origin else None,
        }
