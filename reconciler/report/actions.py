"""Actions as text: the service, the name and the subject of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import assert_never

from reconciler.model import (
    Action,
    ApplyObject,
    AskPreflight,
    DeleteObject,
    Drain,
    EnsureProxy,
    Forget,
    KeepLastGood,
    KeepQuarantines,
    MarkReady,
    NoteCrash,
    NoteFailure,
    NoteTry,
    Promote,
    Promoted,
    Reattach,
    Reject,
    Relabel,
    Remove,
    Repair,
    ServiceId,
    SetRoutes,
    Stage,
    StageImage,
    Start,
    Stop,
    StopService,
    TakeOwnership,
    Undrain,
    Unstage,
    WriteInventory,
    action_name,
    service_of,
)
from reconciler.model.model_sources import shown

__all__ = ["action_name", "event_name", "services_of", "short", "subject_of"]

_EVENTS: Mapping[type[Action], str] = {
    ApplyObject: "object_applied",
    AskPreflight: "preflight_started",
    DeleteObject: "object_deletion_started",
    Drain: "replica_drain_started",
    EnsureProxy: "proxy_ensured",
    Forget: "service_deleted",
    KeepLastGood: "last_good_kept",
    KeepQuarantines: "quarantines_kept",
    MarkReady: "replica_ready",
    NoteCrash: "replica_crashed",
    NoteFailure: "replica_failed",
    NoteTry: "version_failed",
    Promote: "service_promoted",
    Reattach: "replica_reattached",
    Reject: "digest_quarantined",
    Relabel: "replica_relabelled",
    Remove: "replica_removed",
    Repair: "replica_repaired",
    SetRoutes: "routes_updated",
    Stage: "download_started",
    StageImage: "image_pull_started",
    Start: "replica_started",
    Stop: "replica_stop_started",
    StopService: "service_stop_started",
    TakeOwnership: "service_created",
    Undrain: "replica_undrained",
    Unstage: "download_deleted",
    WriteInventory: "inventory_written",
}


def services_of(action: Action) -> tuple[ServiceId, ...]:
    """The services that an action is about; none for the proxy itself."""
    if isinstance(action, SetRoutes):
        return action.changed
    service = service_of(action)
    return (service,) if service else ()


def subject_of(action: Action) -> str:
    """What exactly is acted on: a replica, a digest, routes."""
    match action:
        case EnsureProxy():
            return "proxy"
        case SetRoutes(changed=changed):
            return ", ".join(str(service) for service in changed)
        case Stage(mount=mount):
            return shown(mount.uri)
        case StageImage(image=image):
            return image
        case Unstage(key=key):
            return key
        case Stop(replica=replica, force=force):
            return f"{replica} (kill)" if force else str(replica)
        case Start() | MarkReady() | Reattach() | Relabel() | Drain() | Undrain() | Remove() | Repair():
            return str(action.replica)
        case NoteCrash() | NoteFailure():
            return str(action.replica)
        case AskPreflight(digest=digest) | Promote(promoted=Promoted(digest=digest)):
            return short(digest)
        case Reject():
            return short(action.quarantine.digest)
        case TakeOwnership() | Forget() | KeepLastGood() | KeepQuarantines() | NoteTry():
            return str(action.service)
        case ApplyObject() | DeleteObject() | StopService():
            return str(action.object)
        case WriteInventory():
            return "inventory"
        case _:
            assert_never(action)


def event_name(action: Action, *, failed: bool = False) -> str:
    """How the log and the history name what an action did: `replica_started`, or `start_failed`."""
    return f"{action_name(action)}_failed" if failed else _EVENTS[type(action)]


def short(digest: str) -> str:
    """A digest or revision, shortened for display."""
    return digest.removeprefix("sha256:")[:8]
