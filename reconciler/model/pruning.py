"""What git's silence does not prove: empty is not missing, and unreadable is not deleted. For both wings. Pure."""

from __future__ import annotations

from collections.abc import Collection, Container

from reconciler.model.desired import Desired, DesiredState
from reconciler.model.names import NO_ORIGIN, NoOrigin, Origin, Reason, ServiceId
from reconciler.model.reasons import ReasonCode

# Files that exist, but hold no supported manifest.
_HOLLOW = frozenset(
    {ReasonCode.EMPTY_FILE, ReasonCode.NOT_A_MANIFEST, ReasonCode.UNKNOWN_KIND, ReasonCode.UNSUPPORTED_KIND}
)


def unproven_deletion(
    desired: DesiredState,
    files: Collection[str],
    names: Container[str],
    known: Container[ServiceId] = (),
    document: str = "Host",
) -> Reason | None:
    """Why something that git does not show is kept all the same; None: it was deleted.

    `files` are those that it came from, `names` what it was called there, `known` services that have been here.
    `document` is the kind of the target's own document.
    """
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
        text = f"kept, because {missing_own_file(desired, document)}"
        return Reason(ReasonCode.NOT_PRUNABLE, text, own_file_of(desired))
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


def missing_own_file(desired: DesiredState, document: str = "Host") -> str:
    """What is wrong with the target's own file."""
    where = own_file_of(desired)
    name = where.file if where else f"its {document.lower()}.yaml"
    return f"{name} is missing from git or holds no {document} document"


def own_file_of(desired: DesiredState) -> Origin | NoOrigin:
    """The target's own file, where that is missing."""
    return next((note.origin for note in desired.notes if note.code is ReasonCode.NOT_PRUNABLE), NO_ORIGIN)
