"""History and quarantine survive restarts; a broken file costs only itself."""

from __future__ import annotations

import sqlite3
import stat
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import structlog

from reconciler.errors import Retryable
from reconciler.model import FailedAction, ReasonCode, ServiceId
from reconciler.report import history as module
from reconciler.report.history import FETCHED, History
from tests.support.report_world import NEW, OLD, TINY, rejection


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def history(path: Path) -> Iterator[History]:
    found = History(path)
    yield found
    found.close()


def test_quarantine_is_remembered_over_restarts(history: History, path: Path) -> None:
    history.reject("a", rejection())
    history.close()
    again = History(path)
    assert again.quarantines("a") == {(TINY, NEW): rejection()}
    assert again.quarantines("b") == {}
    again.close()


def test_quarantine_of_an_older_version_gets_the_code_of_today(history: History, path: Path) -> None:
    history.reject("a", rejection())
    history.close()
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE quarantine SET code = 'NotReadyInTime'")
    again = History(path)
    (read,) = again.quarantines("a").values()
    assert read.reason.code is ReasonCode.PROGRESS_DEADLINE_EXCEEDED
    again.close()


def test_failed_actions_are_remembered_over_restarts(history: History, path: Path) -> None:
    failure = FailedAction("start", NEW, (TINY,), "no user vllm", 5.0, tries=2, lasting=True)
    history.keep_failures("a", (failure,))
    history.close()
    again = History(path)
    assert again.failures("a") == (failure,)
    assert again.failures("b") == ()
    again.close()


def test_lifting_forgets_one_digest_or_all_of_a_service(history: History) -> None:
    for digest in (OLD, NEW):
        history.reject("a", rejection(digest=digest))
    other = ServiceId("demo", "other")
    history.reject("a", rejection(other))
    assert history.lift("a", TINY, OLD) == 1
    assert set(history.quarantines("a")) == {(TINY, NEW), (other, NEW)}
    assert history.lift("a", TINY) == 1
    assert set(history.quarantines("a")) == {(other, NEW)}
    assert history.lift("a", TINY) == 0


def test_entries_come_oldest_first_and_by_service(history: History) -> None:
    for number in range(5):
        history.note("a", "rev", f"demo/s{number % 2}", "start", f"number {number}", float(number))
    assert [one["message"] for one in history.entries(2)] == ["number 3", "number 4"]
    assert [one["message"] for one in history.entries(9, "demo/s1")] == ["number 1", "number 3"]
    assert history.entries(1)[0]["at"] == "1970-01-01T00:00:04.000Z"


def test_messages_lose_their_secrets_before_they_are_written(history: History, path: Path) -> None:
    history.note("a", "rev", "demo/tiny", "fetch", "https://me:hunter2@git/x", 1.0)
    history.close()
    assert all(b"hunter2" not in file.read_bytes() for file in path.parent.iterdir())


def test_file_does_not_grow_without_end(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_EVENTS", 10)
    monkeypatch.setattr(module, "MAX_QUARANTINES_PER_SERVICE", 3)
    for number in range(25):
        history.note("a", "rev", "demo/tiny", "start", str(number), float(number))
    assert [one["message"] for one in history.entries(100)] == [str(n) for n in range(15, 25)]
    for number in range(6):
        history.reject("a", rejection(digest=f"{number}" * 64))
    assert len(history.quarantines("a")) == 3


def test_applied_revision_is_kept_per_target(history: History) -> None:
    assert history.applied("a") == ""
    history.set_applied("a", "one")
    history.set_applied("a", "two")
    assert (history.applied("a"), history.applied("b")) == ("two", "")


def test_applying_the_same_revision_again_writes_nothing(history: History, path: Path) -> None:
    history.set_applied("a", "one")
    before = {file.name: file.stat().st_mtime_ns for file in path.parent.iterdir()}
    history.set_applied("a", "one")
    history.quarantines("a")
    assert {file.name: file.stat().st_mtime_ns for file in path.parent.iterdir()} == before


def test_only_the_owner_can_read_it(history: History, path: Path) -> None:
    history.note("a", "rev", "", "start", "", 1.0)
    modes = {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert modes == {0o600}


def test_file_that_is_no_database_is_moved_aside_loudly(path: Path) -> None:
    path.write_bytes(b"this is not sqlite" * 100)
    with structlog.testing.capture_logs() as logs:
        history = History(path)
    assert logs[0]["event"] == "history_recreated"
    assert Path(logs[0]["moved_to"]).read_bytes().startswith(b"this is not sqlite")
    history.reject("a", rejection())
    assert len(history.quarantines("a")) == 1
    history.close()


def test_file_that_breaks_while_it_is_open_is_begun_anew(history: History, path: Path) -> None:
    for number in range(200):
        history.note("a", "rev", "demo/tiny", "start", "x" * 500, float(number))
    history._db.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    path.write_bytes(bytes(data))
    history._db.connection.execute("PRAGMA shrink_memory")
    with structlog.testing.capture_logs() as logs:
        history.reject("a", rejection())
    assert "history_recreated" in [one["event"] for one in logs]
    assert len(history.quarantines("a")) == 1


def test_file_of_a_newer_version_is_moved_aside(path: Path) -> None:
    newer = sqlite3.connect(path)
    newer.execute("PRAGMA user_version = 99")
    newer.close()
    with structlog.testing.capture_logs() as logs:
        History(path).close()
    assert "newer reconciler" in logs[0]["reason"]


def test_file_of_an_older_version_keeps_its_entries(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as older:
        older.setattr(module, "MIGRATIONS", module.MIGRATIONS[:1])
        old = History(path)
        old.reject("a", rejection())
        old.set_applied("a", "rev")
        old.close()
    history = History(path)
    history.note("a", "rev", "", "start", "x", 1.0, ("view", "y"))
    assert (history.applied("a"), len(history.quarantines("a")), history.reported("a")) == ("rev", 1, {"view": "y"})
    history.remember("a", "view", "")
    assert history.reported("a") == {}
    history.close()


def test_folder_that_is_missing_is_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(Retryable, match=r"cannot open .*check that its folder exists"):
        History(tmp_path / "no" / "state.db")


def test_symlink_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "state.db").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Retryable):
        History(tmp_path / "state.db")
    assert not (tmp_path / "elsewhere").exists()


def test_entry_that_cannot_be_written_costs_only_itself(history: History) -> None:
    history._db.connection.execute("PRAGMA query_only = ON")
    with structlog.testing.capture_logs() as logs:
        history.note("a", "rev", "demo/tiny", "start", "lost", 1.0)
    assert [one["event"] for one in logs] == ["history_entry_lost"]
    with pytest.raises(Retryable):
        history.reject("a", rejection())


def test_reader_and_writer_threads_share_it(history: History) -> None:
    def write(name: str) -> None:
        for number in range(50):
            history.note("a", "rev", name, "start", str(number), float(number))

    threads = [threading.Thread(target=write, args=(f"demo/{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        history.entries(10)
    assert len(history.entries(1000)) == 200


def test_thread_that_is_late_finds_it_closed_and_not_damaged(path: Path) -> None:
    history = History(path)
    history.close()
    with pytest.raises(Retryable, match="closed"):
        history.quarantines("a")
    assert [found.name for found in path.parent.iterdir() if "unusable" in found.name] == []


def test_half_a_surrogate_pair_is_kept_as_an_escape(history: History) -> None:
    odd = "a name: \ud800"
    history.note("a", "r", "", "source_failed", odd, 1.0, ("source", odd))
    history.keep_failures("a", (FailedAction("start", NEW, (TINY,), odd, 5.0),))
    known = rejection()
    history.reject("a", replace(known, reason=replace(known.reason, message=odd), last_words=(odd,)))
    (entry,), (failure,) = history.entries(5), history.failures("a")
    (kept,) = history.quarantines("a").values()
    assert {entry["message"], failure.error, kept.reason.message, history.reported("a")["source"]} == {
        "a name: \\ud800"
    }


def _see(history: History, *revisions: str, target: str = "a") -> None:
    for at, revision in enumerate(revisions):
        history.note(target, revision, "", FETCHED, "x", float(at))


def test_revisions_come_by_page_the_one_that_came_last_first(history: History) -> None:
    _see(history, *"abcde")
    history.note("a", "a", "", "applied", "x", 60.0)
    history.note("a", "", "", "config_changed", "x", 60.0)
    first = history.revisions(3)
    assert [one.revision for one in first] == ["e", "d", "c"]
    (_, last) = rest = history.revisions(3, first[-1].place)
    assert [one.revision for one in rest] == ["b", "a"]
    assert (last.first_at, last.last_at) == ("1970-01-01T00:00:00.000Z", "1970-01-01T00:01:00.000Z")
    assert history.revisions(3, last.place) == []


def test_successor_is_what_was_desired_after_the_latest_time(history: History) -> None:
    _see(history, "a", "b", "a", "c", target="a")
    _see(history, "a", "c", target="b")
    history.note("a", "d", "", "revision_refused", "x", 1.0)
    assert [history.successor(one) for one in "abcd"] == ["c", "a", "", ""]


def test_revisions_are_found_by_their_first_digits(history: History) -> None:
    _see(history, "abc1", "abc2", "abd1", "%bc")
    assert history.begin_with("abc", 10) == ["abc1", "abc2"]
    assert history.begin_with("abc", 1) == ["abc1"]
    assert history.begin_with("%", 10) == ["%bc"]


def test_events_are_of_these_kinds_and_revisions_only(history: History) -> None:
    _see(history, "a", "b")
    history.note("a", "a", "", "applied", "done", 5.0)
    found = history.events(["a"], ["applied", "rejected"])
    assert [(one["revision"], one["event"]) for one in found] == [("a", "applied")]
    assert history.events([], ["applied"]) == []
