"""What is told without a forge, and what one of a thousand hosts says on a commit."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from reconciler.config.forge import ForgeSettings, NotificationSettings
from reconciler.errors import Retryable
from reconciler.forge.fleet import SPREAD
from reconciler.forge.messages import CommentSection, CommitState, CommitStatus, Deployment, Message
from reconciler.forge.outbox import FORGE
from reconciler.loop.answering import Answering
from reconciler.report.status import Document
from tests.forge.local_forge import LocalForge, Reply, local_forge
from tests.support import report_world
from tests.support.report_world import planned, rejection, report, status_of, verdict
from tests.support.world import eventually

WELL = status_of(report())
REJECTED = status_of(report(plan=planned(verdict(rejected=rejection(), sync=report_world.Sync.OUT_OF_SYNC))))


class Told:
    """What stands in the outbox after a look at each status."""

    def __init__(self, answering: Answering) -> None:
        self.document: Document = WELL
        self.answering = answering

    def look(self, document: Document, now: float) -> list[Message]:
        self.document = document
        self.answering.turn(now)
        rows = self.answering.outbox.due(FORGE, now)
        for row in rows:
            self.answering.outbox.delivered(row)
        return [row.message for row in rows]


def telling(folder: Path, **given: object) -> Told:
    (folder / "token").write_text("x")
    known = {"kind": "gitea", "url": "https://127.0.0.1:1", "repository": "team/models", "deployments": True}
    forge = ForgeSettings.model_validate(known | {"token_file": str(folder / "token")} | given)
    found = Told(Answering(report_world.settings(folder, forge=forge), lambda: found.document))
    return found


@pytest.fixture
def told(tmp_path: Path) -> Iterator[Told]:
    found = telling(tmp_path, statuses="aggregate")
    yield found
    found.answering.outbox.close()


def test_host_of_many_says_nothing_while_all_is_well(told: Told):
    assert [told.look(WELL, now) for now in (0.0, 100.0)] == [[], []]


def test_host_of_many_says_a_fault_that_lasts_and_its_end(told: Told):
    told.look(WELL, 0.0)
    assert told.look(REJECTED, 100.0) == []
    (fault,) = told.look(REJECTED, 100.0 + SPREAD)
    assert isinstance(fault, CommitStatus)
    assert (fault.context, fault.state) == ("reconciler/fleet", CommitState.FAILURE)
    assert "1 rejected: tiny: unrecognized argument" in fault.description
    assert told.look(REJECTED, 900.0) == []
    (end,) = told.look(WELL, 1000.0)
    assert isinstance(end, CommitStatus)
    assert (end.context, end.state) == (fault.context, CommitState.SUCCESS)
    assert told.look(WELL, 1100.0) == []


def test_host_of_many_that_a_commit_leaves_alone_says_nothing(told: Told):
    told.look(WELL, 0.0)
    newer = REJECTED | {"revision": REJECTED["revision"] | {"desired": "b" * 40}}
    (target,) = newer["targets"]
    newer["targets"] = [target | {"revision": target["revision"] | {"desired": "b" * 40, "applied": "b" * 40}}]
    assert [told.look(newer, now) for now in (100.0, 1000.0)] == [[], []]


def test_pending_status_is_closed_where_none_is_wanted_any_more(tmp_path: Path):
    told = telling(tmp_path, statuses="none")
    assert told.look(WELL, 0.0) == []
    told.answering.outbox.put([CommitStatus(report_world.REVISION, "reconciler/a", CommitState.PENDING, "seen")], 1.0)
    said = [one for one in told.look(WELL, 2.0) if isinstance(one, CommitStatus)]
    told.answering.outbox.close()
    assert [one.state for one in said] == [CommitState.SUPERSEDED]
    assert said[0].description.startswith("not answered here")


def test_host_of_many_knows_which_revisions_are_past(told: Told):
    is_past = told.answering._is_past
    assert not is_past(report_world.REVISION)
    told.look(WELL, 0.0)
    assert [is_past(one) for one in (report_world.REVISION, "b" * 40)] == [False, True]


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[LocalForge]:
    with local_forge(tmp_path / "certificates", lambda _: Reply(202)) as server:
        yield server


def test_event_is_posted_without_any_forge(listener: LocalForge, tmp_path: Path):
    (tmp_path / "url").write_text(f"{listener.url}/events")
    receiver = NotificationSettings(name="ops", url_file=str(tmp_path / "url"), ca_file=listener.ca_file)
    answering = Answering(report_world.settings(tmp_path, notifications=(receiver,)), lambda: REJECTED)
    answering.start()
    try:
        answering.wake()
        eventually(lambda: listener.asked)
        eventually(lambda: not answering.outbox.waiting())
    finally:
        answering.stop()
    (asked,) = listener.asked
    assert asked.body["type"] == "reconciler.service.rejected.v1"
    assert asked.body["subject"] == "demo/tiny"


def test_event_is_told_once_over_restarts(tmp_path: Path):
    receiver = NotificationSettings(name="ops", url_file=str(tmp_path / "url"))
    counts = []
    for _ in range(3):
        answering = Answering(report_world.settings(tmp_path, notifications=(receiver,)), lambda: REJECTED)
        counts.append(answering.turn(time.time()))
        answering.stop()
    assert counts == [1, 0, 0]


def test_section_that_was_never_written_is_not_taken_out(told: Told):
    def waits(text: str) -> int:
        told.answering.put([CommentSection(7, "a", text)])
        return len(told.answering.outbox.due(FORGE, time.time() + 1))

    assert [waits(text) for text in ("", "plan", "")] == [0, 1, 1]


def test_plan_of_another_part_is_told_by_its_fault_and_the_end_of_it(told: Told):
    def said(state: CommitState, text: str) -> list[Message]:
        told.answering.put([CommitStatus("a" * 40, "reconciler/fleet/a/plan", state, text)])
        rows = told.answering.outbox.due(FORGE, time.time() + 1)
        for row in rows:
            told.answering.outbox.delivered(row)
        return [row.message for row in rows]

    assert said(CommitState.SUCCESS, "no change") == []
    assert len(said(CommitState.FAILURE, "1 rejected")) == 1
    assert len(said(CommitState.SUCCESS, "1 restart")) == 1


def test_bug_in_the_answers_keeps_no_event_from_its_receiver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "url").write_text("https://127.0.0.1:1/hook")
    (tmp_path / "token").write_text("x")
    receiver = NotificationSettings(name="ops", kind="slack", url_file=str(tmp_path / "url"))
    forge = ForgeSettings(
        kind="gitea", url="https://127.0.0.1:1", repository="team/models", token_file=str(tmp_path / "token")
    )
    settings = report_world.settings(tmp_path, forge=forge, notifications=(receiver,))
    found = Answering(settings, lambda: REJECTED)
    monkeypatch.setattr("reconciler.loop.answering.answers", lambda *_, **__: {}["x"])
    with pytest.raises(KeyError):
        found.turn(0.0)
    assert [row.key for row in found.outbox.due("notification/ops", 1.0)] == ["notification rejected/a/demo/tiny"]
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            found._note_bug(KeyError("x"))
    assert [one["event"] for one in logs] == ["answering_raised"]
    found.outbox.close()


def test_disk_that_is_full_at_the_start_delays_answers_and_not_the_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    full = Retryable("cannot use outbox.db: the disk is full")

    def forget(*_: object) -> None:
        raise full

    with monkeypatch.context() as disk:
        disk.setattr("reconciler.forge.outbox.Outbox.forget", forget)
        told = telling(tmp_path)
        told.answering.start()
        eventually(lambda: told.answering.document()["forge"]["error"] == str(full))
    told.answering.wake()
    eventually(lambda: not told.answering.document()["forge"]["error"])
    assert told.answering.outbox.waiting()
    told.answering.stop()


def test_status_under_a_name_that_the_target_had_is_closed(tmp_path: Path):
    told = telling(tmp_path)
    (first, _) = told.look(WELL | {"targets": [WELL["targets"][0] | {"observedAt": None}]}, 0.0)
    assert isinstance(first, CommitStatus)
    assert (first.context, first.state) == ("reconciler/a", CommitState.PENDING)
    renamed = WELL | {"targets": [WELL["targets"][0] | {"name": "b"}]}
    found = told.look(renamed, 100.0)
    statuses = {one.context: (one.state, one.description) for one in found if isinstance(one, CommitStatus)}
    assert statuses["reconciler/a"] == (CommitState.SUPERSEDED, "not answered here")
    assert statuses["reconciler/b"][0] is CommitState.SUCCESS
    assert told.look(renamed, 200.0) == []
    told.answering.outbox.close()


def test_deployment_follows_a_revision_that_is_back(tmp_path: Path):
    told = telling(tmp_path)

    def at(revision: str) -> Document:
        texts = json.dumps(WELL).replace(WELL["revision"]["desired"], revision)
        return dict(json.loads(texts))

    def deployed(revision: str, now: float) -> list[str]:
        found = told.look(at(revision), now)
        return [one.revision[0] for one in found if isinstance(one, Deployment)]

    first, second = "1" * 40, "2" * 40
    seen = [deployed(one, now) for now, one in enumerate((first, second, second, first, first))]
    assert seen == [["1"], ["2"], [], ["1"], []]
    told.answering.outbox.close()


def test_other_repository_is_told_what_holds_and_not_what_waits(tmp_path: Path):
    told = telling(tmp_path)
    told.answering.outbox.forget(told.answering._addresses, 0.0)
    told.answering.put([CommentSection(7, "a", "plan")])
    told.answering.turn(0.0)
    told.answering.outbox.close()
    moved = telling(tmp_path, repository="team/moved")
    moved.answering.outbox.forget(moved.answering._addresses, 50.0)
    assert [type(one) for one in moved.look(WELL, 100.0)] == [CommitStatus, Deployment]
    moved.answering.outbox.close()
