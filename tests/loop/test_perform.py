"""What the daemon remembers of an action, and what a target does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from reconciler.loop.perform import Performer, QuarantineLog
from reconciler.model import (
    NO_ORIGIN,
    Action,
    NoteFailure,
    Promote,
    Promoted,
    Quarantine,
    Reason,
    ReasonCode,
    Reject,
    ReplicaId,
)
from reconciler.report.history import History
from tests.loop.test_reconcile import Target
from tests.support.simulation import wanted

WANT = wanted("a", "good1")
FAILED = Quarantine(WANT.id, "bad", Reason(ReasonCode.CRASHED, "it ended", NO_ORIGIN), "r", 1.0)


class Listening(Target):
    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Action] = []

    def perform(self, action: Action) -> None:
        self.asked.append(action)


@pytest.fixture
def performer(tmp_path: Path) -> Iterator[Performer]:
    with closing(History(tmp_path / "state.db")) as history:
        yield Performer(Listening(), QuarantineLog("box", history))


def asked(performer: Performer) -> list[Action]:
    assert isinstance(performer.target, Listening)
    return performer.target.asked


def test_rejected_digest_is_quarantined_without_the_target(performer: Performer) -> None:
    performer.perform(Reject(FAILED, "t"))
    performer.perform(NoteFailure(ReplicaId(WANT.id, "bad-0"), "bad", "run", "t"))
    assert performer.quarantines.now() == {(WANT.id, "bad"): FAILED}
    assert asked(performer) == []


@pytest.mark.parametrize(("replicas", "left"), [(1, 0), (0, 1)])
def test_promotion_lifts_quarantines_unless_it_is_of_no_replica(performer: Performer, replicas: int, left: int) -> None:
    assert WANT.spec is not None
    performer.perform(Reject(FAILED, "t"))
    action = Promote(WANT.id, Promoted(WANT.digest, WANT.spec, replicas, WANT.origin, "r", 2.0), "t")
    performer.perform(action)
    assert asked(performer) == [action]
    assert len(performer.quarantines.now()) == left


def test_forgotten_quarantines_are_those_of_the_service_asked_for(performer: Performer) -> None:
    performer.perform(Reject(FAILED, "t"))
    assert performer.quarantines.forget("default/b") == set()
    assert performer.quarantines.forget(str(WANT.id)) == {str(WANT.id)}
    assert not performer.quarantines.now()


def test_quarantine_on_record_elsewhere_holds_until_it_is_lifted_here(performer: Performer) -> None:
    known = performer.quarantines
    known.see([FAILED])
    assert known.now() == {(WANT.id, "bad"): FAILED}

    assert known.forget(str(WANT.id)) == {str(WANT.id)}
    assert not known.now()
    known.see([FAILED])
    assert not known.now(), "the record is not rewritten yet"

    known.see([])
    known.see([FAILED])
    assert known.now() == {(WANT.id, "bad"): FAILED}, "it has failed again"


def test_digest_that_fails_again_after_it_was_lifted_is_quarantined(performer: Performer) -> None:
    performer.quarantines.see([FAILED])
    performer.quarantines.lift(WANT.id)
    assert not performer.quarantines.now()
    performer.perform(Reject(FAILED, "t"))
    assert performer.quarantines.now()
