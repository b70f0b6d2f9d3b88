"""What releases deletions that the guard holds: an approval by hand or by a commit."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from reconciler.model import Approval, ByHand, CommitApproval, Deletion, DeletionRules, GuardLimits
from reconciler.model.approvals import JudgedDeletions, judge
from reconciler.model.guard import plan_hash

STRICT = GuardLimits(objects=2, percent=50, gpus=8)
NAMES = st.lists(st.sampled_from("abcdefgh"), min_size=3, max_size=8, unique=True)


def some(names: list[str] | str) -> list[Deletion]:
    return [Deletion(f"default/{name}") for name in names]


def approval(deletions: list[Deletion], **fields: bool) -> Approval:
    return Approval(plan_hash(deletions), frozenset(one.key for one in deletions), ByHand("ada", 1.0), **fields)


def judged(deletions: list[Deletion], *approvals: Approval, commits: tuple[str, ...] = ()) -> JudgedDeletions:
    by_commit = tuple(CommitApproval(one, "c" * 40, "Ada") for one in commits)
    return judge(deletions, 100, DeletionRules(limits=STRICT, approvals=approvals, commits=by_commit))


@given(NAMES, st.integers(0, 7))
def test_approval_releases_its_set_and_whatever_is_left_of_it(names: list[str], done: int) -> None:
    deletions = some(names)
    assert judged(deletions).held is not None
    assert judged(deletions[done:], approval(deletions)).held is None


@given(NAMES, NAMES)
def test_approval_releases_nothing_of_another_set(names: list[str], others: list[str]) -> None:
    rest = [one for one in some(names) if one not in some(others)]
    found = judged(some(names), approval(some(others)))
    assert (found.held is not None) == (len(rest) > 2)
    assert found.held is None or set(found.held.deletions) == set(rest)


@given(NAMES, NAMES)
def test_commit_releases_the_set_of_its_hash_and_no_other(names: list[str], others: list[str]) -> None:
    found = judged(some(names), commits=(plan_hash(some(others)),))
    assert (found.held is None) == (set(names) == set(others))
    assert (found.commit is not None) == (found.released is not None) == (found.held is None)


def test_commit_does_not_release_what_a_person_withdrew() -> None:
    deletions = some("abcd")
    withdrawn = approval(deletions, withdrawn=True)
    assert judged(deletions, withdrawn, commits=(plan_hash(deletions),)).held is not None


def test_withdrawn_rest_is_held_however_little_it_is() -> None:
    left, other = some("d"), some("x")
    found = judged([*left, *other], approval(some("abcd"), withdrawn=True))
    assert found.held is not None
    assert found.held.deletions == tuple(left)
    assert found.held.hash == plan_hash(left)
    assert "was withdrawn by ada" in found.held.reasons[0].message
    assert not found.holds(other[0])


def test_withdrawn_rest_can_be_approved_again() -> None:
    left = some("d")
    assert judged(left, approval(some("abcd"), withdrawn=True), approval(left)).held is None


def test_any_deletion_of_a_rewritten_history_is_held() -> None:
    rules = DeletionRules(limits=GuardLimits(None, None, None, everything=True), rewritten=True)
    assert judge(some("a"), 100, rules).held is not None
