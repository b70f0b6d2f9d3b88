"""What git does not show: why it is kept, or why it goes. Empty is not missing, and unreadable is not deleted."""

from __future__ import annotations

from collections.abc import Container

from reconciler.model import (
    NO_ORIGIN,
    Desired,
    DesiredState,
    NoOrigin,
    Origin,
    Owned,
    Reason,
    ReasonCode,
    Replica,
    ServiceId,
    is_under,
    progress,
)

# Files that exist, but hold no supported manifest.
_HOLLOW = frozenset(
    {ReasonCode.EMPTY_FILE, ReasonCode.NOT_A_MANIFEST, ReasonCode.UNKNOWN_KIND, ReasonCode.UNSUPPORTED_KIND}
)


def reason_to_keep(
    desired: DesiredState, owned: Owned | None, replicas: tuple[Replica, ...], known: Container[ServiceId] = ()
) -> Reason | None:
    """Why something that git does not show now is not pruned. `known` are services that have been here."""
    files = {replica.origin.file for replica in replicas} | ({owned.origin.file} if owned else set())
    for reason in desired.unreadable:
        place = reason.origin.file if reason.origin else ""
        if any(file == place or file.startswith(f"{place.rstrip('/')}/") for file in files):
            return Reason(
                ReasonCode.UNREADABLE, f"kept, because its file cannot be read: {reason.message}", reason.origin
            )
    for reason in desired.unreadable:
        # It may have been moved there in the same commit, or be known by its route alone.
        return Reason(
            ReasonCode.UNREADABLE,
            f"kept, because it may be where git cannot be read: {reason.message}",
            reason.origin,
        )
    if not desired.prunable:
        return Reason(ReasonCode.NOT_PRUNABLE, f"kept, because {_no_host_file(desired)}", _host_file(desired))
    names = {replica.service.name for replica in replicas} | ({owned.id.name} if owned else set())
    if successor := next((one for one in desired.services if _may_succeed(one, files, names, known)), None):
        problem = successor.problems[0]
        text = f"kept, because {successor.id} may take its place and cannot be used: {problem.message}"
        return Reason(problem.code, text, problem.origin)
    return next((kept for file in sorted(files) if (kept := _kept_for_file(desired, file))), None)


def _may_succeed(one: Desired, files: Container[str], names: Container[str], known: Container[ServiceId]) -> bool:
    """Is it new, unusable, and of the same file or name? Then something was renamed, or moved, and broken at once."""
    return bool(one.problems) and (one.origin.file in files or one.id.name in names) and one.id not in known


def _kept_for_file(desired: DesiredState, file: str) -> Reason | None:
    """A file that is still there, though nothing is read from it, may have lost its service by accident."""
    skipped = desired.skipped.get(file)
    if skipped and skipped.code is ReasonCode.HIDDEN:
        text = "kept, because its file is there but hidden: names with a dot in front are not read; rename or delete it"
        return Reason(ReasonCode.HIDDEN, text, Origin(file, 1))
    if skipped and skipped.code in _HOLLOW and (fault := _first_fault(desired)):
        text = f"kept, because its file is there ({skipped.message}) and there are other errors: {fault}"
        return Reason(skipped.code, text, Origin(file, 1))
    return None


def _first_fault(desired: DesiredState) -> Reason | None:
    problems = (problem for one in desired.services for problem in one.problems)
    return next(iter((*desired.refused, *problems)), None)


def reason_to_stay(desired: DesiredState, want: Desired) -> Reason | None:
    """Why something that is not for this host any more is kept all the same: to take it away is to prune it here."""
    if not want.not_here or (desired.prunable and not desired.unreadable):
        return None
    file = desired.unreadable[0] if desired.unreadable else None
    why = file.message if file else _no_host_file(desired)
    text = f"no longer for this host, but kept until git can be read in full: {why}"
    return Reason(ReasonCode.UNREADABLE, text, file.origin if file else _host_file(desired))


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


def _no_host_file(desired: DesiredState) -> str:
    where = _host_file(desired)
    return f"{where.file if where else 'its host.yaml'} is missing from git or holds no Host document"


def _host_file(desired: DesiredState) -> Origin | NoOrigin:
    return next((note.origin for note in desired.notes if note.code is ReasonCode.NOT_PRUNABLE), NO_ORIGIN)
