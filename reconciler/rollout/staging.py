"""Files of models that have to be on the host before anything else is done."""

from __future__ import annotations

from reconciler.model import EffectiveSpec, Fetch, Mount, Reason, Stage, Staging
from reconciler.rollout.situation import Situation
from reconciler.rollout.steps import Steps
from reconciler.storage.sources import fetched, shown

Missing = tuple[tuple[str, Mount], ...]
_FIRST_PAUSE, _AFTER_REFUSAL, _LONGEST_PAUSE = 5.0, 60.0, 300.0
# Seconds between two looks at how many bytes there are.
_LOOK = 1.0
_FAILURES_THAT_DEGRADE = 3
_UNITS = (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))


def missing_files(s: Situation, spec: EffectiveSpec) -> Missing:
    """The models of a spec that are not on this host yet."""
    return tuple((key, mount) for key, mount in fetched(s.id, spec) if not _is_staged(s.staging.get(key)))


def begin_staging(s: Situation, missing: Missing, steps: Steps) -> None:
    """Fetch them, or say how far they are. What failed is tried again more and more slowly."""
    begun = {action.key for action in steps.processes if isinstance(action, Stage)}
    for key, mount in missing:
        if key in begun:
            continue
        known = s.staging.get(key)
        steps.say(f"staging: {_progress(known, mount)}")
        if known is not None and known.fetch is Fetch.RUNNING:
            steps.look(s.now + _LOOK)
            continue
        due = s.now if known is None else stage_again_at(known, s.now)
        if due > s.now:
            steps.look(due)
            continue
        why = "its files are not on this host" if known is None else f"going on after: {_failure(known)}"
        steps.processes.append(Stage(s.id, key, mount, why))
        steps.look(s.now + _LOOK)


def why_staging(s: Situation, missing: Missing) -> Reason:
    """Why the service waits. `StagingFailed` when it does not go on by itself."""
    origin = s.desired.origin if s.desired else None
    for key, mount in missing:
        known = s.staging.get(key)
        if known is not None and known.fetch in (Fetch.FAILED, Fetch.REFUSED):
            lasting = known.fetch is Fetch.REFUSED or known.failures >= _FAILURES_THAT_DEGRADE
            return Reason("StagingFailed" if lasting else "Staging", f"{shown(mount.uri)}: {_failure(known)}", origin)
    key, mount = missing[0]
    return Reason("Staging", f"fetching {_progress(s.staging.get(key), mount)}", origin)


def refusals(s: Situation, missing: Missing) -> tuple[Reason, ...]:
    """What the sources refused: only a change in git, of a Secret or at the source helps."""
    origin = s.desired.origin if s.desired else None
    states = [(mount, s.staging.get(key)) for key, mount in missing]
    return tuple(
        Reason("StagingFailed", f"{shown(mount.uri)}: {_failure(known)}", origin)
        for mount, known in states
        if known is not None and known.fetch is Fetch.REFUSED
    )


def stage_again_at(known: Staging, now: float) -> float:
    """When the next try is due: after 5 s, 10 s, 20 s … up to 5 minutes; after a refusal it begins with a minute."""
    first = _AFTER_REFUSAL if known.fetch is Fetch.REFUSED else _FIRST_PAUSE
    pause = min(_LONGEST_PAUSE, first * 2.0 ** min(max(known.failures - 1, 0), 10))
    # What lies ahead was written before the clock was set back.
    return min(known.at, now) + pause


def _is_staged(known: Staging | None) -> bool:
    return known is not None and known.fetch is Fetch.STAGED


def _failure(known: Staging) -> str:
    return known.reason.message if known.reason else "it ended without saying why"


def _progress(known: Staging | None, mount: Mount) -> str:
    if known is None:
        return shown(mount.uri)
    if known.fetch in (Fetch.FAILED, Fetch.REFUSED):
        return f"{shown(mount.uri)} failed and will be tried again: {_failure(known)}"
    if known.total is None:
        return f"{shown(mount.uri)}, {size(known.done)} so far"
    return f"{shown(mount.uri)}, {size(known.done)} of {size(known.total)}"


def size(amount: int) -> str:
    """Bytes as people read them."""
    for unit, length in _UNITS:
        if amount >= length:
            return f"{amount / length:.1f} {unit}"
    return f"{amount} bytes"
