"""What deletions of a target are judged by, and what is written down of them before they are done."""

from __future__ import annotations

import time

from reconciler.loop.recorder import Recorder
from reconciler.model import (
    Approval,
    ByHand,
    DeletionRules,
    DesiredState,
    Guard,
    GuardLimits,
    Plan,
    Snapshot,
    Unreachable,
)
from reconciler.model.names import listed
from reconciler.model.target import Seen
from reconciler.state.approvals import Approvals

# More of them are counted.
_MOST_NAMED = 10


class DeletionGuard:
    """The limits and approvals of one target. `approvals` are those after the latest pass."""

    def __init__(self, limits: GuardLimits, approvals: Approvals, recorder: Recorder) -> None:
        self._limits = limits
        self._approvals = approvals
        self._recorder = recorder
        self.approvals: tuple[Approval, ...] = ()

    def rules(self, snapshot: Snapshot | None) -> DeletionRules:
        """What counts now. Raises Retryable when the approvals cannot be read."""
        rewrite = snapshot.rewrite if snapshot else ""
        self.approvals = self._approvals.all()
        return DeletionRules(
            limits=self._limits,
            approvals=self.approvals,
            commits=snapshot.approvals if snapshot else (),
            rewritten=bool(rewrite) and rewrite != self._approvals.settled_rewrite(),
        )

    def note(self, snapshot: Snapshot | None, desired: DesiredState, observed: Seen | Unreachable, plan: Plan) -> None:
        """Before anything of the plan is done: keep a commit's approval, and end those that are used up.

        What cannot be read or seen now may still be to be deleted: then nothing ends. Raises Retryable.
        """
        judged = plan.deletions
        if judged.released and judged.commit:
            by = f"commit {judged.commit.commit[:8]} of {judged.commit.author or 'an unknown author'}"
            self._approve(judged.released, ByHand(by, time.time()))
        in_doubt = desired.unreadable or not desired.prunable or desired.leaving or plan.bugs
        if snapshot is not None and not isinstance(observed, Unreachable) and not in_doubt:
            self._approvals.settle(judged.pending, snapshot.rewrite)
        if self.approvals or judged.commit:
            self.approvals = self._approvals.all()

    def approve(self, held: Guard, by: ByHand) -> None:
        """A person's approval of what is held now. Raises Retryable."""
        self._approve(held, by)

    def withdraw(self, hash_: str, by: ByHand) -> bool:
        """Was there an approval to withdraw? Raises Retryable."""
        found = self._approvals.withdraw(hash_, by)
        if found:
            names = listed(sorted(subject for subject, _ in found.members), _MOST_NAMED)
            self._recorder.record_by_hand("approval_withdrawn", f"{hash_}: {names}; {by}")
        return found is not None

    def _approve(self, guard: Guard, by: ByHand) -> None:
        members = frozenset(each.key for each in guard.deletions)
        self._approvals.add(Approval(guard.hash, members, by))
        what = f"{guard.hash}: {listed([each.subject for each in guard.deletions], _MOST_NAMED)}"
        self._recorder.record_by_hand("deletions_approved", f"{what}; {by}")
