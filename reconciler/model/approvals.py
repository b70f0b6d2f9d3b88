"""Which deletions the guard holds, and what releases them: an approval by hand or a commit's trailer. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from reconciler.model.by_hand import ByHand
from reconciler.model.guard import Deletion, Guard, GuardLimits, examine, few_may_go, plan_hash
from reconciler.model.names import NO_ORIGIN, Reason
from reconciler.model.reasons import ReasonCode
from reconciler.model.snapshot import CommitApproval

Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Approval:
    """A person's word on the set of deletions with this hash: they may be done; `withdrawn`: they must not.

    `members` are the keys of those of them that are not done yet.
    """

    hash: str
    members: frozenset[Key]
    asked: ByHand
    withdrawn: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DeletionRules:
    """What deletions are judged by. `commits` approve too. `rewritten`: git's history was rewritten before them."""

    limits: GuardLimits = field(default_factory=GuardLimits)
    approvals: tuple[Approval, ...] = ()
    commits: tuple[CommitApproval, ...] = ()
    rewritten: bool = False


@dataclass(frozen=True, slots=True)
class JudgedDeletions:
    """`pending` are the keys of all deletions that are to be done, `held` those of them that wait for an approval.

    `commit` approves `released`, which was held otherwise: write that down before anything of it is done, as what is
    left of it afterwards has another hash.
    """

    pending: frozenset[Key] = frozenset()
    held: Guard | None = None
    released: Guard | None = None
    commit: CommitApproval | None = None

    def holds(self, deletion: Deletion) -> bool:
        return self.held is not None and deletion in self.held.deletions


def judge(deletions: Collection[Deletion], total: int, rules: DeletionRules) -> JudgedDeletions:
    """Which of the deletions may be done. `total` is how many things are owned now, these among them."""
    pending = frozenset(each.key for each in deletions)
    approved = {key for one in rules.approvals if not one.withdrawn for key in one.members}
    rest = [each for each in deletions if each.key not in approved]
    limits = few_may_go(deletions, rules.limits)
    guard = examine(rest, total, limits, rewritten_history=rules.rewritten) or _withdrawn(rest, rules)
    if guard is None:
        return JudgedDeletions(pending)
    refused = {one.hash for one in rules.approvals if one.withdrawn}
    commit = next((one for one in rules.commits if one.hash == guard.hash and one.hash not in refused), None)
    return JudgedDeletions(pending, None, guard, commit) if commit else JudgedDeletions(pending, guard)


def _withdrawn(rest: list[Deletion], rules: DeletionRules) -> Guard | None:
    """What is left of a set whose approval was withdrawn stays, however little it is."""
    for one in rules.approvals:
        if one.withdrawn and (left := [each for each in rest if each.key in one.members]):
            digest = plan_hash(left)
            text = f"its approval was withdrawn {one.asked}; `reconciler approve {digest}` gives it again"
            return Guard(digest, (Reason(ReasonCode.APPROVAL_REQUIRED, text, NO_ORIGIN),), tuple(sorted(left)))
    return None
