"""What git does not show: why it is kept, or why it goes. Empty is not missing, and unreadable is not deleted."""

from __future__ import annotations

from collections.abc import Container

from reconciler.model import (
    Desired,
    DesiredState,
    Owned,
    Reason,
    ReasonCode,
    Replica,
    ServiceId,
    is_under,
    progress,
)
from reconciler.model.pruning import missing_own_file, own_file_of, unproven_deletion


def reason_to_keep(
    desired: DesiredState, owned: Owned | None, replicas: tuple[Replica, ...], known: Container[ServiceId] = ()
) -> Reason | None:
    """Why something that git does not show now is not pruned. `known` are services that have been here."""
    files = {replica.origin.file for replica in replicas} | ({owned.origin.file} if owned else set())
    names = {replica.service.name for replica in replicas} | ({owned.id.name} if owned else set())
    return unproven_deletion(desired, files, names, known)


def reason_to_stay(desired: DesiredState, want: Desired) -> Reason | None:
    """Why something that is not for this host any more is kept all the same: to take it away is to prune it here."""
    if not want.not_here or (desired.prunable and not desired.unreadable):
        return None
    file = desired.unreadable[0] if desired.unreadable else None
    why = file.message if file else missing_own_file(desired)
    text = f"no longer for this host, but kept until git can be read in full: {why}"
    return Reason(ReasonCode.UNREADABLE, text, file.origin if file else own_file_of(desired))


def reason_to_leave(
    desired: DesiredState, service: ServiceId, owned: Owned | None, replicas: tuple[Replica, ...]
) -> Reason:
    """What removed a service, if it was not deleted: another file that is not read any more, or the config."""
    origin = owned.origin if owned else replicas[-1].origin if replicas else None
    if origin is None:
        return desired.leaving or progress(ReasonCode.DELETING, "deleted in git")
    return desired.leaving or Reason(ReasonCode.DELETING, _what_happened(desired, service, origin.file), origin)


def _what_happened(desired: DesiredState, service: ServiceId, file: str) -> str:
    if desired.paths and not is_under(file, desired.paths):
        paths = ", ".join(desired.paths)
        return (
            f"{file} is not read any more: targets[].paths in the config is {paths}, and no kustomization there uses it"
        )
    if renamed := next((one for one in desired.services if _is_same_document(one, service, file)), None):
        why = "targets[].default_namespace in the config" if renamed.id in desired.in_default_namespace else "its file"
        return f"now {renamed.id}: {why} says namespace {renamed.id.namespace} ({renamed.origin})"
    if skipped := desired.skipped.get(file):
        where = f" ({skipped.origin})" if skipped.origin and skipped.origin.file != file else ""
        return f"deleted in git: {file} {_is(skipped.code)}{skipped.message}{where}"
    beside = (
        path
        for path, why in desired.skipped.items()
        if why.code is ReasonCode.MISNAMED_MANIFEST and _is_copy(path, file)
    )
    if copy := next(beside, None):
        return f"deleted in git; {copy} is not read, for its name is not that of a manifest"
    return "deleted in git"


def _is_copy(path: str, file: str) -> bool:
    """Is it called as the file was, but for what stands behind the name?"""
    return path.startswith(f"{file.rpartition('.')[0]}.")


def _is(code: ReasonCode) -> str:
    return "is " if code is ReasonCode.FILE_IGNORED else ""


def _is_same_document(one: Desired, service: ServiceId, file: str) -> bool:
    return one.id.name == service.name and one.id != service and one.origin.file == file
