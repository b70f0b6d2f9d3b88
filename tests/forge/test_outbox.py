"""What waits to be told: each key's newest message, once, over restarts."""

from __future__ import annotations

import sqlite3
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import structlog
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from reconciler.errors import Retryable
from reconciler.forge import outbox as module
from reconciler.forge.baseline import Baseline, turned
from reconciler.forge.messages import CommentSection, CommitState, CommitStatus, Deployment, Message, Notification
from reconciler.forge.outbox import FORGE, Outbox, key_of

REVISION = "4f1c2ab0".ljust(40, "0")
DONE = CommitStatus(REVISION, "reconciler/a", CommitState.SUCCESS, "2 updated", "https://box")
PENDING = CommitStatus(REVISION, "reconciler/a", CommitState.PENDING, "being applied")
NOTE = Notification("pager", "target/a", "unreachable", "target.unreachable", "/targets/a", "gone", "2026-11-30T08:00Z")


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    return Outbox(tmp_path / "outbox.db")


def waiting(outbox: Outbox, now: float = 1e12, destination: str = FORGE) -> list[Message]:
    return [row.message for row in outbox.due(destination, now, 1000)]


@pytest.mark.parametrize(
    "message",
    [DONE, PENDING, Deployment(REVISION, "a", CommitState.ERROR, "x"), CommentSection(7, "a", "| x |\n"), NOTE],
)
def test_message_comes_out_as_it_went_in(outbox: Outbox, message: Message) -> None:
    assert outbox.put([message], 1.0) == 1
    assert waiting(outbox, destination=module.destination_of(message)) == [message]
    assert outbox.last(message) == message


def test_same_message_again_is_not_written(outbox: Outbox) -> None:
    outbox.put([DONE], 1.0)
    (row,) = outbox.due(FORGE, 2.0)
    outbox.delivered(row)
    before = outbox._db.connection.total_changes
    assert outbox.put([DONE], 3.0) == 0
    assert outbox._db.connection.total_changes == before
    assert waiting(outbox) == []


def test_newer_message_replaces_one_that_is_being_delivered(outbox: Outbox) -> None:
    outbox.put([PENDING], 1.0)
    (row,) = outbox.due(FORGE, 2.0)
    outbox.put([DONE], 3.0)
    outbox.delivered(row)
    assert waiting(outbox) == [DONE]


def test_final_messages_are_delivered_before_pending_ones(outbox: Outbox) -> None:
    other = CommitStatus(REVISION, "reconciler/b", CommitState.FAILURE, "x")
    outbox.put([PENDING], 1.0)
    outbox.put([other], 2.0)
    assert waiting(outbox) == [other, PENDING]


def test_newest_commit_is_answered_first_and_deployments_in_their_order(outbox: Outbox) -> None:
    revisions = ["a" * 40, "b" * 40]
    statuses = [CommitStatus(each, "reconciler/a", CommitState.SUCCESS, "done") for each in revisions]
    deployments = [Deployment(each, "a", CommitState.FAILURE, "done") for each in revisions]
    for now, messages in enumerate(zip(statuses, deployments, strict=True)):
        outbox.put(messages, float(now))
    assert waiting(outbox) == [*reversed(statuses), *deployments]


def test_postponed_message_is_due_later_and_says_why(outbox: Outbox) -> None:
    outbox.put([DONE], 1.0)
    (row,) = outbox.due(FORGE, 1.0)
    outbox.postpone(row, "no answer: token=hf_abcdefghijklmnopqrstuvw", 1.0)
    assert outbox.due(FORGE, 1.5) == []
    (row,) = outbox.due(FORGE, 9.0)
    assert row.attempts == 1
    (one,) = outbox.waiting()
    assert (one.destination, one.count, one.since) == (FORGE, 1, 1.0)
    assert "hf_abc" not in one.error


def test_message_that_is_given_up_is_said_anew_where_it_still_holds(outbox: Outbox) -> None:
    outbox.put([DONE, NOTE], 1.0)
    assert outbox.give_up(FORGE, 0.5, 2.0) == 0
    assert outbox.give_up(FORGE, 1.5, 2.0) == 1
    assert [(one.key, one.at) for one in outbox.dead()] == [(key_of(DONE), 2.0)]
    assert outbox.put([DONE, NOTE], 3.0) == 1
    assert waiting(outbox) == [DONE]


def test_dead_letter_ends_with_a_delivery_or_after_a_month(outbox: Outbox) -> None:
    other = replace(DONE, context="reconciler/other")
    outbox.put([DONE, other], 1.0)
    outbox.give_up(FORGE, 2.0, 2.0)
    outbox.put([DONE], 3.0)
    outbox.delivered(outbox.due(FORGE, 3.0)[0])
    assert [one.key for one in outbox.dead()] == [key_of(other)]
    outbox.put([replace(DONE, description="later")], 31 * 86_400.0)
    assert outbox.dead() == []


def test_message_that_is_refused_is_not_said_again(outbox: Outbox) -> None:
    outbox.put([DONE], 1.0)
    (row,) = outbox.due(FORGE, 1.0)
    outbox.drop(row, "no such commit", 2.0)
    assert waiting(outbox) == []
    assert outbox.put([DONE], 3.0) == 0
    assert [one.error for one in outbox.dead()] == ["no such commit"]


def test_pending_is_found_until_something_else_is_said(outbox: Outbox) -> None:
    outbox.put([PENDING], 1.0)
    assert outbox.pending() == [PENDING]
    outbox.put([DONE], 2.0)
    assert outbox.pending() == []


def test_sections_are_the_last_of_each_target(outbox: Outbox) -> None:
    outbox.put([CommentSection(1, "a", "x"), CommentSection(1, "b", "x"), DONE], 1.0)
    outbox.put([CommentSection(1, "a", "")], 2.0)
    assert outbox.sections() == [CommentSection(1, "a", ""), CommentSection(1, "b", "x")]


def test_key_that_changes_without_end_is_told_seldom_and_then_no_more(outbox: Outbox) -> None:
    now, posts = 0.0, 0
    for number in range(module._MOST_AT_ALL + 50):
        outbox.put([CommitStatus(REVISION, "c", CommitState.FAILURE, str(number))], now)
        for row in outbox.due(FORGE, now):
            outbox.delivered(row)
            posts += 1
        now += module._SELDOM + 1 if number >= module._MOST_AT_ONCE else 1
    assert posts <= module._MOST_AT_ALL


def test_notification_is_told_however_often_its_subject_changed(outbox: Outbox) -> None:
    for number in range(module._MOST_AT_ALL + 50):
        at = float(number)
        outbox.put([Notification("ops", "applied/a", str(number), "revision.applied", "/targets/a", "", "")], at)
        (row,) = outbox.due("notification/ops", at)
        outbox.delivered(row)


def test_full_outbox_keeps_what_is_new(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_WAITING", 10)
    outbox.put((CommitStatus(REVISION, str(n), CommitState.FAILURE, "x") for n in range(30)), 1.0)
    left = sorted(one.context for one in waiting(outbox) if isinstance(one, CommitStatus))
    assert left == [str(n) for n in range(20, 30)]
    assert len(outbox.dead()) == 20


def test_message_that_is_too_long_is_refused(outbox: Outbox) -> None:
    with pytest.raises(Retryable, match="too long"):
        outbox.put([CommentSection(1, "a", "x" * (1 << 20))], 1.0)


def test_destination_that_the_config_names_no_more_is_forgotten(outbox: Outbox) -> None:
    outbox.put([DONE, NOTE], 1.0)
    outbox.forget({FORGE: ""}, 2.0)
    assert waiting(outbox) == [DONE]
    assert waiting(outbox, destination="notification/pager") == []
    assert outbox.notifications() == []


def test_other_repository_is_told_nothing_that_waits_for_the_first(outbox: Outbox) -> None:
    addresses = {FORGE: "https://a team/models", "notification/pager": ""}
    outbox.forget(addresses, 1.0)
    outbox.put([DONE, CommentSection(7, "a", "x"), NOTE], 1.0)
    outbox.forget(addresses, 2.0)
    assert len(waiting(outbox)) == 2
    outbox.forget(addresses | {FORGE: "https://a team/other"}, 3.0)
    assert waiting(outbox) == []
    assert waiting(outbox, destination="notification/pager") == [NOTE]
    assert outbox.put([DONE], 4.0) == 1


def test_clock_that_goes_back_puts_off_nothing_for_hours(outbox: Outbox) -> None:
    outbox.put([DONE], 100_000.0)
    outbox.postpone(outbox.due(FORGE, 100_000.0)[0], "away", 100_000.0)
    assert outbox.due(FORGE, 100_000.0) == []
    assert [row.message for row in outbox.due(FORGE, 50_000.0)] == [DONE]


def test_deployment_of_a_revision_that_is_back_is_said_again(outbox: Outbox) -> None:
    first = Deployment(REVISION, "a", CommitState.SUCCESS, "done")
    elsewhere = Deployment(REVISION, "b-a", CommitState.SUCCESS, "done")
    second = Deployment("b" * 40, "a", CommitState.SUCCESS, "done")
    assert outbox.put([first, elsewhere], 1.0) == 2
    assert outbox.put([second], 2.0) == 1
    assert outbox.put([elsewhere], 3.0) == 0
    assert outbox.put([first], 3.0) == 1
    assert outbox.put([first], 4.0) == 0


def test_row_of_another_version_is_dropped(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.db")
    outbox.put([DONE], 1.0)
    outbox.close()
    with sqlite3.connect(tmp_path / "outbox.db") as db:
        db.execute("UPDATE waiting SET kind = 'telegram'")
    outbox = Outbox(tmp_path / "outbox.db")
    assert outbox.due(FORGE, 2.0) == []
    assert "another version" in outbox.dead()[0].error


def test_damaged_outbox_is_moved_aside(tmp_path: Path) -> None:
    (tmp_path / "outbox.db").write_bytes(b"no database" * 500)
    with structlog.testing.capture_logs() as logs:
        assert Outbox(tmp_path / "outbox.db").put([DONE], 1.0) == 1
    assert [one["event"] for one in logs] == ["outbox_recreated"]


def test_baselines_are_kept_over_a_restart(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.db")
    one = turned(Baseline(REVISION, {"demo/tiny": "a"}, is_answered=True), "b" * 40, {"demo/tiny": "b"})
    outbox.keep_baseline("box", one)
    outbox.close()
    assert Outbox(tmp_path / "outbox.db").baselines() == {"box": one}
    assert one.before == {"demo/tiny": "a"}


def test_baseline_of_another_version_keeps_nobody_from_starting(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.db")
    outbox.close()
    with sqlite3.connect(tmp_path / "outbox.db") as db:
        newer = f'{{"revision": "{REVISION}", "digests": {{}}, "is_answered": true, "before": null, "since": 1}}'
        db.executemany("INSERT INTO baseline VALUES (?,?)", [("box", newer), ("old", '{"commit": "x"}')])
    assert Outbox(tmp_path / "outbox.db").baselines() == {"box": Baseline(REVISION, {}, is_answered=True)}


CONTEXTS = st.sampled_from(["reconciler/a", "reconciler/b"])
STATES = st.sampled_from([CommitState.PENDING, CommitState.SUCCESS, CommitState.FAILURE])
STATUSES = st.builds(CommitStatus, st.sampled_from(["a" * 40, "b" * 40]), CONTEXTS, STATES, st.sampled_from("xy"))


class OutboxHistories(RuleBasedStateMachine):
    """Any order of messages, deliveries, failures and restarts: the forge hears the last word of each key."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "outbox.db"
        self.outbox = Outbox(self.path)
        self.now = 1000.0
        self.wanted: dict[str, Message] = {}
        self.forge: dict[str, Message] = {}
        self.refused: dict[str, Message] = {}

    @rule(one=STATUSES)
    def put(self, one: CommitStatus) -> None:
        is_new = self.wanted.get(key_of(one)) != one
        assert self.outbox.put([one], self.now) == is_new
        self.wanted[key_of(one)] = one

    @rule(seconds=st.sampled_from([1.0, 5000.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(is_marked=st.booleans())
    def deliver(self, is_marked: bool) -> None:
        for row in self.outbox.due(FORGE, self.now)[:1]:
            self.forge[row.key] = row.message
            self.refused.pop(row.key, None)
            if is_marked:
                self.outbox.delivered(row)

    @rule(one=st.none() | STATUSES)
    def fail(self, one: CommitStatus | None) -> None:
        for row in self.outbox.due(FORGE, self.now)[:1]:
            if one:
                self.put(one)
            self.outbox.postpone(row, "away", self.now)

    @rule()
    def refuse(self) -> None:
        for row in self.outbox.due(FORGE, self.now)[:1]:
            self.outbox.drop(row, "no", self.now)
            self.refused[row.key] = row.message

    @rule()
    def restart(self) -> None:
        self.outbox.close()
        self.outbox = Outbox(self.path)

    @invariant()
    def nothing_is_lost(self) -> None:
        left = {key_of(message): message for message in waiting(self.outbox)}
        for key, message in self.wanted.items():
            assert message in (left.get(key), self.forge.get(key), self.refused.get(key))
            if key in left:
                assert left[key] == message

    @precondition(lambda self: self.wanted)
    @rule()
    def drain(self) -> None:
        self.now += 10_000
        while rows := self.outbox.due(FORGE, self.now):
            for row in rows:
                self.forge[row.key] = row.message
                self.refused.pop(row.key, None)
                self.outbox.delivered(row)
        for key, message in self.wanted.items():
            assert message in (self.forge.get(key), self.refused.get(key))

    def teardown(self) -> None:
        self.outbox.close()
        self.folder.cleanup()


TestOutboxHistories = OutboxHistories.TestCase
TestOutboxHistories.settings = settings(stateful_step_count=20)


def test_statuses_of_a_revision_are_those_and_no_others(outbox: Outbox) -> None:
    plan = replace(DONE, context="reconciler/a/plan")
    others = [replace(DONE, revision="c" * 40), Deployment(REVISION, "a", CommitState.SUCCESS, "x"), NOTE]
    outbox.put([PENDING, plan, *others], 1.0)
    assert outbox.statuses(REVISION) == [PENDING, plan]
    assert outbox.statuses("d" * 40) == []
