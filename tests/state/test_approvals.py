"""Approvals on disk: they outlive the daemon, and end with what they are for."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.errors import Retryable
from reconciler.model import Approval, ByHand
from reconciler.state.approvals import Approvals

A, B = ("default/a", ""), ("default/b", "uid")
GIVEN = Approval("1" * 16, frozenset({A, B}), ByHand("ada", 12.5, "old models"))


def at(folder: Path) -> Approvals:
    return Approvals(folder / "state" / "approvals.json")


def test_nothing_is_approved_where_there_is_no_file(tmp_path: Path) -> None:
    assert at(tmp_path).all() == ()
    at(tmp_path).settle(frozenset(), "")
    assert not (tmp_path / "state").exists()


def test_approval_is_read_as_it_was_written(tmp_path: Path) -> None:
    at(tmp_path).add(GIVEN)
    assert at(tmp_path).all() == (GIVEN,)


def test_approval_ends_with_the_last_deletion_that_it_is_for(tmp_path: Path) -> None:
    approvals = at(tmp_path)
    approvals.add(GIVEN)
    approvals.settle(frozenset({B, ("default/c", "")}), "")
    assert [one.members for one in approvals.all()] == [{B}]
    approvals.settle(frozenset({A}), "")
    assert approvals.all() == ()


def test_withdrawn_approval_stays_on_record_until_it_is_given_again(tmp_path: Path) -> None:
    approvals, bob = at(tmp_path), ByHand("bob", 13.0)
    assert approvals.withdraw(GIVEN.hash, bob) is None
    approvals.add(GIVEN)
    assert approvals.withdraw(GIVEN.hash, bob) == GIVEN
    assert approvals.withdraw(GIVEN.hash, bob) is None
    (found,) = at(tmp_path).all()
    assert (found.withdrawn, found.asked, found.members) == (True, bob, GIVEN.members)
    approvals.add(GIVEN)
    assert approvals.all() == (GIVEN,)


def test_rewrite_is_settled_once_nothing_is_left_to_delete(tmp_path: Path) -> None:
    approvals = at(tmp_path)
    approvals.settle(frozenset({A}), "f" * 40)
    assert approvals.settled_rewrite() == ""
    approvals.settle(frozenset(), "f" * 40)
    assert at(tmp_path).settled_rewrite() == "f" * 40


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"approvals": 3}', '{"approvals": [{"hash": "a"}]}', '{"approvals": [1]}']
)
def test_file_that_cannot_be_read_is_not_taken_for_no_approvals(tmp_path: Path, text: str) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state/approvals.json").write_text(text)
    with pytest.raises(Retryable, match=r"approvals\.json: cannot be read: .*; remove it to hold again"):
        at(tmp_path).all()
