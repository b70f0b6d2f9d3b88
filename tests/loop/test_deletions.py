"""Deleting much at once, from pass to pass: held, approved by hand or by a commit, withdrawn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.loop.deletions import DeletionGuard
from reconciler.loop.reconcile import Pass
from reconciler.model import ByHand, CommitApproval, Drain, Forget, Guard, Remove, Snapshot, Stop
from reconciler.report.history import History
from reconciler.state.approvals import Approvals
from tests.loop.test_reconcile import make_reconciler, snapshot

ALL = ("a", "b", "c", "d")
NEXT = "b" * 40


class World:
    """Four services that serve, on a simulated host."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.reconciler, self.target = make_reconciler(folder)
        self.until_settled(snapshot(*ALL))
        assert self.names == set(ALL)

    def step(self, wanted: Snapshot) -> Pass:
        one_pass = self.reconciler.run_pass(wanted)
        self.target.host.now += max(one_pass.again_in or 0, 0.02)
        return one_pass

    def until_settled(self, wanted: Snapshot) -> Pass:
        for _ in range(300):
            one_pass = self.step(wanted)
            if not one_pass.plan.actions and one_pass.again_in in (None, 30.0):
                return one_pass
        raise AssertionError(one_pass.plan)

    @property
    def names(self) -> set[str]:
        """Of the services that are on record."""
        return {service.name for service in self.target.host.owned}

    @property
    def guard(self) -> DeletionGuard:
        return self.reconciler._deletions

    @property
    def approvals(self) -> Approvals:
        return Approvals(self.folder / "approvals.json")

    def held(self) -> Guard:
        assert self.reconciler.report.plan
        assert self.reconciler.report.plan.deletions.held
        return self.reconciler.report.plan.deletions.held

    def restart(self) -> None:
        """As a daemon is: what it did not write down is gone."""
        host = self.target.host
        self.reconciler.close()
        self.reconciler, self.target = make_reconciler(self.folder)
        self.target.host = host

    def events(self) -> list[str]:
        return [one["event"] for one in History(self.folder / "state/state.db").entries(200)]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    (tmp_path / "x").mkdir()
    made = World(tmp_path)
    yield made
    made.reconciler.close()


def going(one_pass: Pass) -> list[object]:
    return [one for one in one_pass.plan.actions if isinstance(one, Drain | Stop | Remove | Forget)]


def approved_by(wanted: Snapshot, *hashes: str) -> Snapshot:
    return replace(wanted, approvals=tuple(CommitApproval(one, "c" * 40, "Ada") for one in hashes))


def test_deleting_most_services_is_held_and_the_hash_stays(world: World) -> None:
    most = snapshot("a", revision=NEXT)
    first = world.step(most)
    found = world.held().hash
    world.restart()
    last = world.until_settled(most)
    assert not going(first)
    assert not going(last)
    assert world.held().hash == found
    assert world.names == set(ALL)
    assert world.events().count("deletions_held") == 1


def test_deleting_two_services_goes_on_at_once(world: World) -> None:
    world.until_settled(snapshot("a", "b", revision=NEXT))
    assert world.names == {"a", "b"}


def test_everything_else_of_a_held_revision_is_applied(world: World) -> None:
    world.until_settled(snapshot("a", "new", revision=NEXT))
    assert world.names == {*ALL, "new"}
    assert world.target.host.serving("new")


def test_approved_services_go_though_the_daemon_restarts_meanwhile(world: World) -> None:
    most = snapshot("a", revision=NEXT)
    world.step(most)
    world.guard.approve(world.held(), ByHand("ada", 1.0))
    while world.names == set(ALL):
        world.step(most)
        world.restart()
    world.until_settled(most)
    assert world.names == {"a"}
    assert world.approvals.all() == ()
    assert "deletions_approved" in world.events()


def test_commit_approves_what_it_deletes(world: World) -> None:
    most = snapshot("a", revision=NEXT)
    found = world.reconciler.run_pass(most, act=False).plan.deletions.held
    assert found is not None
    signed = approved_by(most, found.hash)
    world.step(signed)
    (approval,) = world.approvals.all()
    assert approval.asked.by == "commit cccccccc of Ada"
    # The commits after it bear no trailer, and do not stop what was begun.
    world.until_settled(replace(most, revision="d" * 40))
    assert world.names == {"a"}


def test_looking_writes_no_approval_down(world: World) -> None:
    most = snapshot("a", revision=NEXT)
    found = world.reconciler.run_pass(most, act=False).plan.deletions.held
    assert found is not None
    world.reconciler.run_pass(approved_by(most, found.hash), act=False)
    assert world.approvals.all() == ()


def test_trailer_of_another_set_approves_nothing(world: World) -> None:
    world.until_settled(approved_by(snapshot("a", revision=NEXT), "0" * 16))
    assert world.names == set(ALL)


def test_used_approval_does_not_delete_the_same_names_again(world: World) -> None:
    most = snapshot("a", revision=NEXT)
    world.step(most)
    world.guard.approve(world.held(), ByHand("ada", 1.0))
    world.until_settled(most)
    world.until_settled(snapshot(*ALL, revision="d" * 40))
    assert world.names == set(ALL)
    world.until_settled(snapshot("a", revision="e" * 40))
    assert world.names == set(ALL)


def test_approval_ends_when_the_services_are_restored(world: World) -> None:
    world.step(snapshot("a", revision=NEXT))
    world.guard.approve(world.held(), ByHand("ada", 1.0))
    world.until_settled(snapshot(*ALL, revision="d" * 40))
    assert world.approvals.all() == ()


def test_withdrawn_approval_stops_what_is_left_also_of_a_commit(world: World) -> None:
    most = snapshot("a", revision=NEXT)
    found = world.reconciler.run_pass(most, act=False).plan.deletions.held
    assert found is not None
    signed = approved_by(most, found.hash)
    world.step(signed)
    assert world.guard.withdraw(found.hash, ByHand("bob", 2.0))
    last = world.until_settled(signed)
    assert not going(last)
    assert world.names == set(ALL)
    assert all(world.target.host.serving(name) for name in ALL)
    assert "approval_withdrawn" in world.events()


def test_deletion_of_a_rewritten_history_is_held_until_approved_and_later_ones_are_not(world: World) -> None:
    rewritten = replace(snapshot("a", "b", "c", revision=NEXT), rewrite=NEXT)
    world.until_settled(rewritten)
    assert world.names == set(ALL)
    world.guard.approve(world.held(), ByHand("ada", 1.0))
    world.until_settled(rewritten)
    assert world.names == {"a", "b", "c"}
    world.until_settled(replace(snapshot("a", "b", revision="d" * 40), rewrite=NEXT))
    assert world.names == {"a", "b"}


def test_approvals_that_cannot_be_read_stop_the_pass(world: World) -> None:
    (world.folder / "approvals.json").write_text("{")
    with pytest.raises(Exception, match="remove it to hold again what was approved"):
        world.step(snapshot("a", revision=NEXT))
    assert world.names == set(ALL)
