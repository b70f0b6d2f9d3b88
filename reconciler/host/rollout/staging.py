"""Files of models, and images, that have to be on the host before anything else is done."""

from __future__ import annotations

from dataclasses import dataclass

from reconciler.host.rollout.context import ServiceContext
from reconciler.host.rollout.steps import Steps
from reconciler.model import NO_ORIGIN, EffectiveSpec, Fetch, Mount, Reason, ReasonCode, Stage, StageImage, Staging
from reconciler.model.backoff import backoff
from reconciler.model.model_sources import fetched, shown


@dataclass(frozen=True, slots=True)
class NeededFiles:
    """One model's files, or (without a mount) the image named `key`; `known` is how far it is, None: not begun."""

    key: str
    mount: Mount | None
    known: Staging | None

    @property
    def shown(self) -> str:
        return shown(self.mount.uri) if self.mount else f"image {self.key}"

    @property
    def lasting_failure(self) -> ReasonCode:
        return ReasonCode.STAGING_FAILED if self.mount else ReasonCode.IMAGE_PULL_FAILED

    @property
    def failure(self) -> str:
        """Why it failed, as text that follows its name."""
        if self.known is None or self.known.reason is None:
            return "it ended without a reason"
        return self.known.reason.message.removeprefix(f"{self.shown}: ")


Missing = tuple[NeededFiles, ...]
# Of a service that does not go on by itself.
STAGING_FAILED = (ReasonCode.STAGING_FAILED, ReasonCode.IMAGE_PULL_FAILED)
_FIRST_PAUSE, _AFTER_REFUSAL, _LONGEST_PAUSE = 5.0, 60.0, 300.0
# Seconds between two looks at how many bytes there are.
_LOOK = 1.0
_FAILURES_THAT_DEGRADE = 3
_UNITS = (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))


def missing_files(s: ServiceContext, spec: EffectiveSpec) -> Missing:
    """The models of a spec that are not on this host yet, and its image where it needs that."""
    models = (NeededFiles(key, mount, s.staging.get(key)) for key, mount in fetched(s.id, spec))
    missing = tuple(need for need in models if not _is_staged(need.known))
    return (*missing, NeededFiles(spec.image, None, s.images[spec.image])) if spec.image in s.images else missing


def begin_staging(s: ServiceContext, missing: Missing, steps: Steps) -> None:
    """Fetch them, or say how far they are. What failed is tried again more and more slowly."""
    begun = steps.staged()
    for need in missing:
        if need.key in begun:
            continue
        known = need.known
        steps.say(f"staging: {_progress(need)}")
        if known is not None and known.fetch is Fetch.RUNNING:
            steps.look(s.now + _LOOK)
            continue
        due = s.now if known is None else stage_again_at(known, s.now)
        if due > s.now:
            steps.look(due)
            continue
        steps.act(_stage(s, need))
        steps.look(s.now + _LOOK)


def _stage(s: ServiceContext, need: NeededFiles) -> Stage | StageImage:
    why = f"continuing after: {need.failure}" if need.known else "it is not on this host"
    return Stage(s.id, need.key, need.mount, why) if need.mount else StageImage(s.id, need.key, why)


def why_staging(s: ServiceContext, missing: Missing) -> Reason:
    """Why the service waits; one of STAGING_FAILED when it does not go on by itself."""
    origin = s.desired.origin if s.desired else NO_ORIGIN
    for need in missing:
        known = need.known
        if known is not None and known.fetch in (Fetch.FAILED, Fetch.REFUSED):
            lasting = known.fetch is Fetch.REFUSED or known.failures >= _FAILURES_THAT_DEGRADE
            return Reason(
                need.lasting_failure if lasting else ReasonCode.STAGING, f"{need.shown}: {need.failure}", origin
            )
    return Reason(ReasonCode.STAGING, f"fetching {_progress(missing[0])}", origin)


def refusals(s: ServiceContext, missing: Missing) -> tuple[Reason, ...]:
    """What the sources refused: only a change in git, of a Secret or at the source helps."""
    origin = s.desired.origin if s.desired else NO_ORIGIN
    return tuple(
        Reason(need.lasting_failure, f"{need.shown}: {need.failure}", origin)
        for need in missing
        if need.known is not None and need.known.fetch is Fetch.REFUSED
    )


def stage_again_at(known: Staging, now: float) -> float:
    """When the next try is due: after 5 s, 10 s, 20 s … up to 5 minutes; after a refusal it begins with a minute."""
    first = _AFTER_REFUSAL if known.fetch is Fetch.REFUSED else _FIRST_PAUSE
    # What lies ahead was written before the clock was set back.
    return min(known.at, now) + backoff(known.failures, first, _LONGEST_PAUSE)


def _is_staged(known: Staging | None) -> bool:
    return known is not None and known.fetch is Fetch.STAGED


def _progress(need: NeededFiles) -> str:
    known = need.known
    if known is None:
        return need.shown
    if known.fetch in (Fetch.FAILED, Fetch.REFUSED):
        return f"{need.shown} failed and will be retried: {need.failure}"
    if known.total is None:
        return f"{need.shown}, {size(known.done)} so far"
    return f"{need.shown}, {size(known.done)} of {size(known.total)}"


def size(amount: int) -> str:
    """Bytes as people read them."""
    for unit, length in _UNITS:
        if amount >= length:
            return f"{amount / length:.1f} {unit}"
    return f"{amount} bytes"
