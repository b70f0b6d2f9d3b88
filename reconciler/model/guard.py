"""The blast guard: when so much would be deleted at once that a person must approve it. Pure.

What passes the guard goes on passing while it is carried out: with each thing that is gone, the share of what is left
to delete only falls. An approval covers what it was given for, and so also what is left of that.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

from reconciler.model.names import NO_ORIGIN, NoOrigin, Origin, Reason
from reconciler.model.reasons import ReasonCode

_FEW = 2


@dataclass(frozen=True, slots=True, order=True)
class Deletion:
    """One thing that would be deleted.

    `subject` is what people call it: `default/tiny`, `Secret default/token`. `uid` tells it from another one of that
    name: empty where there is nothing that does. `gpus` are those that it holds now.
    """

    subject: str
    uid: str = ""
    gpus: int = 0

    @property
    def key(self) -> tuple[str, str]:
        """What an approval is for; how many GPUs it holds changes while it is drained."""
        return self.subject, self.uid


@dataclass(frozen=True, slots=True)
class GuardLimits:
    """The most that is deleted at once without approval; None: any number. `percent` is of all that is owned, and
    counts from the third deletion on: one of two is half. `everything`: may all of it go?"""

    objects: int | None = 10
    percent: int | None = 30
    gpus: int | None = 8
    everything: bool = False


@dataclass(frozen=True, slots=True)
class Guard:
    """Deletions that wait for an approval of their `hash`, and why."""

    hash: str
    reasons: tuple[Reason, ...]
    deletions: tuple[Deletion, ...]

    def why_kept(self, origin: Origin | NoOrigin) -> Reason:
        """Why one of them is not done yet. `origin` named it last."""
        text = f"kept, because its deletion needs approval: {self.reasons[0].message}"
        return Reason(ReasonCode.APPROVAL_REQUIRED, text, origin)


def examine(
    deletions: Collection[Deletion],
    total: int,
    limits: GuardLimits,
    *,
    rewritten_history: bool = False,
    missing_path: str = "",
    risks: Collection[str] = (),
) -> Guard | None:
    """Why these deletions must be approved first; None: they need not be.

    `total` is how many things are owned now, these among them. `missing_path` is a folder that the target reads and
    that is not in git any more. `risks` say what else would be lost.
    """
    if not deletions:
        return None
    texts = [*_suspicious(rewritten_history, missing_path), *risks, *_too_much(deletions, total, limits)]
    if not texts:
        return None
    digest = plan_hash(deletions)
    reasons = tuple(Reason(ReasonCode.APPROVAL_REQUIRED, f"{text}; {_next(digest)}", NO_ORIGIN) for text in texts)
    return Guard(digest, reasons, tuple(sorted(deletions)))


def few_may_go(deletions: Collection[Deletion], limits: GuardLimits) -> GuardLimits:
    """One or two may go without a word, the last ones too."""
    return replace(limits, everything=True) if len(deletions) <= _FEW else limits


def plan_hash(deletions: Collection[Deletion]) -> str:
    """16 hex digits, which stay the same while the same things would be deleted: over passes, commits and daemons."""
    written = json.dumps(sorted({each.key for each in deletions}))
    return hashlib.sha256(written.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def covers(approved: Collection[Deletion], deletions: Collection[Deletion]) -> bool:
    """Was all of it approved? Once some of it is gone, the rest has another hash, but needs no other approval."""
    return {each.key for each in deletions} <= {each.key for each in approved}


def _suspicious(rewritten_history: bool, missing_path: str) -> Iterator[str]:
    if rewritten_history:
        yield "the branch's history was rewritten, and what is gone from it would be deleted"
    if missing_path:
        yield f"{missing_path}/ is missing from git, and what came from there would be deleted"


def _too_much(deletions: Collection[Deletion], total: int, limits: GuardLimits) -> Iterator[str]:
    count, gpus = len(deletions), sum(each.gpus for each in deletions)
    if count >= total and not limits.everything:
        yield f"all {total} that are owned here would be deleted"
    elif limits.percent is not None and count > _FEW and count * 100 > limits.percent * total:
        yield f"{count} of {total} would be deleted, which is more than {limits.percent} %"
    if limits.objects is not None and count > limits.objects:
        yield f"{count} of {total} would be deleted, which is more than {limits.objects} at once"
    if limits.gpus is not None and gpus > limits.gpus:
        yield f"what uses {gpus} GPUs would be deleted, which is more than {limits.gpus} GPUs at once"


def _next(digest: str) -> str:
    return f"if that is meant: `reconciler approve {digest}`; else restore it in git"
