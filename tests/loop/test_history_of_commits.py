"""What a commit came to stays in the history: each change once, also over restarts of the daemon."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reconciler.config.settings import HostSettings, Settings, SourceSettings
from reconciler.errors import RevisionRefused, Terminal
from reconciler.loop.recorder import Recorder
from reconciler.loop.source_recorder import SourceRecorder
from reconciler.model import (
    Action,
    AskPreflight,
    Desired,
    Forget,
    Origin,
    Outcome,
    Reason,
    ReasonCode,
    Result,
    ServicePlan,
    Signer,
    Snapshot,
    Sync,
    Unreachable,
)
from reconciler.report.history import History, parse_revision, parse_since
from reconciler.source import GitSource
from reconciler.web.metrics import Metrics
from tests.support.git_repository import Repository
from tests.support.report_world import (
    NEW,
    OLD,
    SPEC,
    TINY,
    desired,
    observed,
    planned,
    rejection,
    replica,
    settings,
    state,
    verdict,
)

NO_GPU = Reason(ReasonCode.INSUFFICIENT_GPU, "needs 2 GPUs, 1 is free", Origin("hosts/a/tiny.yaml", 7))
BROKEN = Reason(ReasonCode.INVALID_YAML, "is not YAML", Origin("hosts/a/z.yaml", 9))
BLOCKED = verdict(sync=Sync.OUT_OF_SYNC, blocked=(NO_GPU,))


class Desk:
    """A journal that can be put down and taken up again."""

    def __init__(self, folder: Path) -> None:
        self.history = History(folder / "state.db")
        self.restart()

    def restart(self) -> None:
        self.recorder = Recorder("a", self.history, Metrics())

    def record(self, *verdicts: ServicePlan, wanted: Desired | None = None, seen: Any = None, **more: Any) -> None:
        at = state(wanted or desired(), **more)
        self.recorder.record(at, seen or observed(replica()), planned(*verdicts), (), 0.1)

    def act(self, action: Action, error: str = "") -> None:
        result = Result(action, Outcome.FAILED if error else Outcome.DONE, error)
        self.recorder.record(state(desired()), observed(replica()), planned(), (result,), 0.1)

    @property
    def told(self) -> list[tuple[str, str]]:
        quiet = ("revision_fetched", "applied")
        return [(one["event"], one["message"]) for one in self.history.entries(100) if one["event"] not in quiet]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.mark.parametrize(
    ("bad", "event"),
    [
        ((BLOCKED, desired()), "blocked"),
        ((verdict(sync=Sync.UNKNOWN, kept=BROKEN), desired()), "kept"),
        ((verdict(sync=Sync.OUT_OF_SYNC), desired(problems=(BROKEN,), spec=None)), "unusable"),
    ],
)
def test_verdict_is_told_once_and_again_when_it_is_over(
    desk: Desk, bad: tuple[ServicePlan, Desired], event: str
) -> None:
    said, wanted = bad
    for _ in range(3):
        desk.record(said, wanted=wanted)
        desk.restart()
    (entry,) = [one for one in desk.history.entries(9) if one["event"] == event]
    assert entry["service"] == str(TINY)
    assert "hosts/a/" in entry["message"]
    desk.record(verdict())
    desk.record(verdict())
    assert desk.told[1:] == [("resolved", f"no longer {event}")]
    desk.record(said, wanted=wanted)
    assert [each for each, _ in desk.told] == [event, "resolved", event]


def test_verdict_with_other_figures_is_the_same(desk: Desk) -> None:
    desk.record(BLOCKED)
    desk.record(replace(BLOCKED, blocked=(replace(NO_GPU, message="needs 2 GPUs, 0 is free"),)))
    assert len(desk.told) == 1
    desk.record(replace(BLOCKED, blocked=(replace(NO_GPU, message="needs memory"),)))
    assert len(desk.told) == 2


def test_rollout_on_its_way_resolves_nothing(desk: Desk) -> None:
    desk.record(BLOCKED)
    desk.record(verdict(sync=Sync.OUT_OF_SYNC))
    desk.record(BLOCKED)
    desk.record(seen=Unreachable("a", 1.0, "gone"))
    assert [event for event, _ in desk.told] == ["blocked", "incomplete_view"]


def test_digest_that_failed_at_an_earlier_commit_is_told(desk: Desk) -> None:
    known = replace(rejection(), revision="f" * 40)
    desk.record(verdict(sync=Sync.OUT_OF_SYNC, rejected=known))
    ((event, message),) = desk.told
    assert event == "rejected"
    assert "failed before, at ffffffff" in message
    assert NEW[:8] in message


def test_digest_that_fails_now_is_told_by_its_action_alone(desk: Desk) -> None:
    desk.record(verdict(sync=Sync.OUT_OF_SYNC, rejected=rejection()))
    assert desk.told == []
    desk.record(verdict())
    assert desk.told == [("resolved", "no longer rejected")]


def test_preflight_without_answer_is_told_once_however_often_it_is_asked(desk: Desk) -> None:
    ask = AskPreflight(TINY, NEW, SPEC, Origin("f.yaml", 1), "not judged yet")
    for _ in range(3):
        desk.act(ask)
        desk.act(ask, "cannot run /x/python")
    assert [event for event, _ in desk.told] == ["preflight_started", "ask_preflight_failed"]
    desk.act(Forget(TINY, "deleted in git"))
    desk.act(ask)
    desk.act(ask, "cannot run /x/python")
    assert [event for event, _ in desk.told][2:] == ["service_deleted", "preflight_started", "ask_preflight_failed"]


def test_unreadable_file_is_told_once_over_restarts(desk: Desk) -> None:
    for _ in range(2):
        desk.record(verdict(), unreadable=(BROKEN,))
        desk.restart()
    desk.record(verdict())
    assert desk.told == [
        ("incomplete_view", "hosts/a/z.yaml:9: is not YAML"),
        ("resolved", "git is read in full again"),
    ]


def test_service_that_is_gone_is_forgotten_without_a_word(desk: Desk) -> None:
    desk.record(BLOCKED)
    desk.record()
    assert len(desk.told) == 1
    assert str(TINY) not in desk.history.reported("a")


def test_pass_without_news_writes_nothing(desk: Desk, tmp_path: Path) -> None:
    desk.record(BLOCKED)
    before = desk.history._db.connection.total_changes
    desk.record(BLOCKED)
    desk.restart()
    desk.record(BLOCKED)
    assert desk.history._db.connection.total_changes == before


# ---------------------------------------------------------------- git and the config


def test_source_error_and_refused_revision_are_told_once(tmp_path: Path) -> None:
    history = History(tmp_path / "state.db")
    for _ in range(2):
        recorder = SourceRecorder(history)
        recorder.failed(Terminal("no such branch; 3 s"), OLD[:40])
        recorder.failed(Terminal("no such branch; 4 s"), OLD[:40])
    recorder.failed(RevisionRefused("b" * 40, "too many files"), OLD[:40])
    recorder.recovered("c" * 40)
    recorder.recovered("c" * 40)
    assert [(one["event"], one["revision"][:1]) for one in history.entries(9)] == [
        ("source_failed", "a"),
        ("revision_refused", "b"),
        ("source_recovered", "c"),
    ]


def test_signer_of_a_revision_is_told_once(tmp_path: Path) -> None:
    history = History(tmp_path / "state.db")
    alice = Signer("Alice <alice@example.invalid>", "A" * 40)
    for _ in range(2):
        recorder = SourceRecorder(history)
        recorder.verified(Snapshot("a" * 40, (), signer=alice))
        recorder.verified(Snapshot("a" * 40, (), signer=alice))
    recorder.verified(Snapshot("b" * 40, ()))
    recorder.verified(Snapshot("a" * 40, (), signer=alice))
    assert [(one["event"], one["revision"][:1], one["message"]) for one in history.entries(9)] == [
        ("revision_verified", "a", f"signed by Alice <alice@example.invalid> ({'A' * 40})")
    ] * 2


def test_refused_revision_knows_its_commit(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "repo")
    repository.write("hosts/a/x.yaml", "a: 1\n")
    repository.commit()
    source = GitSource(SourceSettings(url=str(repository.path), max_files=1), tmp_path / "git", ("hosts/a",))
    source.poll()
    repository.write("hosts/a/y.yaml", "a: 1\n")
    revision = repository.commit()
    with pytest.raises(RevisionRefused) as refused:
        source.poll()
    assert refused.value.revision == revision


def configured(folder: Path, **fields: Any) -> Settings:
    target = HostSettings.model_validate({"name": "a", "paths": ("runtimes", "hosts/a")} | fields)
    return settings(folder, targets=(target,))


def test_changed_config_is_told_without_its_secrets(tmp_path: Path) -> None:
    history = History(tmp_path / "state.db")
    engine = {"image": "*", "python": "/usr/bin/python3", "env": {"TOKEN": "hunter2"}}
    SourceRecorder(history).compare_config(configured(tmp_path))
    assert history.entries(9) == []
    for _ in range(2):
        changed = configured(tmp_path, paths=("hosts/a",), default_namespace="prod", engines=(engine,))
        SourceRecorder(history).compare_config(changed)
    (entry,) = history.entries(9)
    assert (entry["event"], entry["target"]) == ("config_changed", "a")
    assert entry["message"] == (
        'targets[].default_namespace was "default", is "prod"; targets[].engines changed; '
        'targets[].paths was ["runtimes", "hosts/a"], is ["hosts/a"]'
    )


def test_refused_config_is_told(tmp_path: Path) -> None:
    history = History(tmp_path / "state.db")
    SourceRecorder(history).refused_config(Terminal("config.yaml: targets[0].paths: required"))
    (entry,) = history.entries(9)
    assert entry["event"] == "config_rejected"
    assert "targets[0].paths" in entry["message"]


# ---------------------------------------------------------------- asking for a part


def test_entries_are_found_by_time_revision_and_service(tmp_path: Path) -> None:
    history = History(tmp_path / "state.db")
    for number in range(6):
        history.note("a", f"{number % 2}abc" + "0" * 36, f"demo/s{number % 3}", "start", str(number), float(number))

    def found(**filters: Any) -> str:
        return "".join(one["message"] for one in history.entries(9, **filters))

    assert found(since=3.0) == "345"
    assert found(revision="1abc") == "135"
    assert found(revision="1abc", since=2.0, service="demo/s0") == "3"
    assert found(revision="_abc") == ""


def test_since_is_a_duration_or_a_time() -> None:
    assert parse_since("2h", 10_000.0) == 2800.0
    assert parse_since("1970-01-01T00:01:00Z", 0.0) == 60.0
    assert parse_since("1970-01-01T01:01:00+01:00", 0.0) == 60.0
    for wrong in ("", "yesterday", "2 hours", "-1h"):
        with pytest.raises(ValueError, match="is not a time"):
            parse_since(wrong, 0.0)


def test_revision_is_four_digits_at_least() -> None:
    assert parse_revision("ABCD") == "abcd"
    for wrong in ("abc", "main", "%", "a" * 41):
        with pytest.raises(ValueError, match="4 to 40 digits"):
            parse_revision(wrong)
