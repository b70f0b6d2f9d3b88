"""The daemon's look at pull requests: each is planned once by a process of its own, and nothing of it comes true."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from reconciler.errors import Retryable
from reconciler.forge.http import ForgeBusy
from reconciler.forge.messages import CommentSection, CommitState, CommitStatus, Message, PullRequest
from reconciler.loop import once, proposed_plans, pull_requests
from reconciler.loop.pull_requests import FOLDER, MOST_AT_ONCE, MOST_OPEN, PullRequestPlans, live_digest
from tests.support.git_repository import git
from tests.support.light_rig import LightRig
from tests.support.world import eventually

Document = dict[str, Any]


class Desk:
    """A forge with open pull requests, and what was put into the outbox."""

    name = "a forge"

    def __init__(self, *pulls: PullRequest) -> None:
        self.pulls = pulls
        self.said: list[Message] = []

    def pull_requests(self, base: str) -> tuple[PullRequest, ...]:
        assert base == "main"
        return self.pulls

    def put(self, messages: Iterable[Message]) -> None:
        self.said += messages

    def statuses(self) -> list[CommitStatus]:
        return [one for one in self.said if isinstance(one, CommitStatus)]

    def sections(self) -> list[CommentSection]:
        return [one for one in self.said if isinstance(one, CommentSection)]


def pull(number: int, head: str = "", *, is_trusted: bool = True) -> PullRequest:
    return PullRequest(number, head or f"{number:040x}", "main", is_trusted)


def target(name: str = "a", **service: Any) -> Document:
    found = {
        "namespace": "team",
        "name": "tiny",
        "digest": "a",
        "liveDigest": "a",
        "suspended": False,
        "gpus": 1,
        "rejected": None,
        "health": {"message": "1 of 1"},
    }
    return {
        "name": name,
        "reachable": True,
        "suspended": False,
        "drained": None,
        "cordoned": None,
        "gpus": {"total": 1, "leased": 1},
        "services": [found | service],
    }


def status(revision: str = "f" * 40, **service: Any) -> Document:
    return {"revision": {"desired": revision}, "targets": [target(**service)]}


class Planner:
    """In place of the process: what it would say, and what it was asked."""

    def __init__(self, *answers: Document) -> None:
        self.asked: list[tuple[str, ...]] = []
        self.answers = {one["revision"]: one for one in answers}

    def plan(self, revisions: tuple[str, ...]) -> Iterator[Document]:
        self.asked.append(revisions)
        yield from (self.answers.get(one, {"revision": one, "plan": {"targets": []}}) for one in revisions)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from reconciler.config.settings import Settings

    path = tmp_path_factory.mktemp("config") / "config.yaml"
    config = {"source": {"url": "/nowhere.git"}, "targets": [{"name": "a", "paths": ["a"], "engines": []}]}
    path.write_text(json.dumps(config))
    return Settings.load(path)


def plans(settings: Any, desk: Desk, planner: Planner, now: Document) -> PullRequestPlans:
    made = PullRequestPlans(settings, lambda: now, desk, desk.put, desk.sections)  # type: ignore[arg-type]
    made._process = planner  # type: ignore[assignment]
    return made


def test_pull_request_is_planned_once_per_head(settings: Any) -> None:
    desk, planner, now = Desk(pull(1)), Planner(), status()
    made = plans(settings, desk, planner, now)
    for _ in range(2):
        assert made._look()
    assert len(planner.asked) == 1
    desk.pulls = (replace(pull(1), head="b" * 40),)
    made._look()
    assert planner.asked == [("0" * 39 + "1",), ("b" * 40,)]


def test_section_of_a_target_that_is_gone_is_taken_out_while_it_is_open(settings: Any) -> None:
    desk = Desk(pull(1))
    desk.said = [
        CommentSection(1, "a", "x"),
        CommentSection(1, "old", "x"),
        CommentSection(2, "old", "x"),
        CommentSection(1, "older", ""),
    ]
    before = len(desk.said)
    plans(settings, desk, Planner(), status())._look()
    assert desk.sections()[before:] == [CommentSection(1, "old", "")]


def changed_target(now: Document) -> None:
    now["targets"][0]["services"][0]["liveDigest"] = "b"


def changed_branch(now: Document) -> None:
    now["revision"]["desired"] = "e" * 40


@pytest.mark.parametrize("change", [changed_target, changed_branch])
def test_what_changed_is_planned_again_once_it_is_settled(
    settings: Any, monkeypatch: pytest.MonkeyPatch, change: Callable[[Document], None]
) -> None:
    desk, planner, now = Desk(pull(1)), Planner(), status()
    made = plans(settings, desk, planner, now)
    made._look()
    change(now)
    made._look()
    assert len(planner.asked) == 1
    monkeypatch.setattr(pull_requests, "_SETTLED", 0.0)
    desk.pulls = (pull(1), pull(2))
    made._look()
    assert planner.asked[1] == (pull(2).head, pull(1).head), "what is new comes first"


def test_pull_request_of_another_repository_is_left_alone(settings: Any) -> None:
    desk, planner = Desk(pull(1, is_trusted=False)), Planner()
    made = plans(settings, desk, planner, status())
    made._look()
    assert not planner.asked
    assert not desk.said
    assert made.document()["pullRequests"]["notTrusted"] == 1


def test_closed_pull_request_is_forgotten(settings: Any) -> None:
    desk = Desk(pull(1), pull(2))
    made = plans(settings, desk, Planner(), status())
    made._look()
    desk.pulls = (pull(2),)
    made._look()
    assert made.document()["pullRequests"]["answered"] == 1


def test_many_pull_requests_are_planned_some_at_a_time(settings: Any) -> None:
    desk, planner = Desk(*(pull(number) for number in range(1, MOST_AT_ONCE + 3))), Planner()
    made = plans(settings, desk, planner, status())
    assert not made._look()
    assert made._look()
    assert [len(each) for each in planner.asked] == [MOST_AT_ONCE, 2]


def test_nothing_is_planned_before_a_revision_was_accepted(settings: Any) -> None:
    planner = Planner()
    assert plans(settings, Desk(pull(1)), planner, status(""))._look()
    assert not planner.asked


def test_revision_that_cannot_be_planned_is_told_when_that_lasts(settings: Any) -> None:
    one = pull(1)
    lasting = {"revision": one.head, "error": "too large", "lasting": True}
    desk, planner = Desk(one), Planner(lasting)
    made = plans(settings, desk, planner, status())
    made._look()
    made._look()
    assert [each.description for each in desk.statuses()] == ["no plan: too large"]
    assert len(planner.asked) == 1
    passing = Desk(one)
    again = plans(settings, passing, Planner(lasting | {"lasting": False}), status())
    for _ in range(2):
        again._look()
    assert not passing.said
    again._look()
    assert [each.state for each in passing.statuses()] == [CommitState.ERROR]


def test_process_that_ends_early_is_started_again(settings: Any) -> None:
    class Dying(Planner):
        def plan(self, revisions: tuple[str, ...]) -> Iterator[Document]:
            yield from list(super().plan(revisions))[:1]

    desk = Desk(pull(1), pull(2))
    made = plans(settings, desk, Dying(), status())
    with pytest.raises(Retryable, match="1 pull requests were not planned"):
        made._look()
    assert made._look()


def test_pull_request_that_ends_the_process_holds_up_no_other(settings: Any) -> None:
    class Poisoned(Planner):
        def plan(self, revisions: tuple[str, ...]) -> Iterator[Document]:
            end = revisions.index(bad.head) if bad.head in revisions else len(revisions)
            yield from super().plan(revisions[:end])

    bad, good = pull(1), pull(2)
    desk = Desk(bad, good)
    made = plans(settings, desk, Poisoned(), status())
    for _ in range(2):
        with pytest.raises(Retryable, match="ended early"):
            made._look()
    assert made.document()["pullRequests"]["answered"] == 1
    assert not desk.said
    with pytest.raises(Retryable, match="ended early"):
        made._look()
    assert [one.revision for one in desk.statuses()] == [bad.head]
    assert "ended early 3 times" in desk.statuses()[0].description
    assert made._look()


def test_strangers_pull_requests_take_no_place_of_ours(settings: Any) -> None:
    strangers = [pull(number, is_trusted=False) for number in range(1, MOST_OPEN + 1)]
    desk, planner = Desk(*strangers, pull(MOST_OPEN + 1)), Planner()
    plans(settings, desk, planner, status())._look()
    assert planner.asked == [(f"{MOST_OPEN + 1:040x}",)]


def test_bug_in_one_plan_keeps_no_other_from_it(settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def looking(*_: Any, **__: Any) -> Iterator[tuple[Any, list[Any]]]:
        yield SimpleNamespace(snapshot=lambda revision: revision), []

    def previewed(_: Any, snapshot: str, *__: Any, **___: Any) -> str:
        if snapshot == "a":
            raise RecursionError
        return snapshot

    monkeypatch.setattr(once, "_looking", looking)
    monkeypatch.setattr(once, "_previewed", previewed)
    (bad, why), good = once.preview_each(settings, ("a", "b"), tmp_path)
    assert (bad, good[0]) == ("a", "b")
    assert not isinstance(good[1], Exception)
    assert isinstance(why, RecursionError)
    told = proposed_plans._answer(why)
    assert told["lasting"]
    assert "RecursionError" in str(told["error"])


@pytest.mark.parametrize(("error", "least"), [(None, pull_requests._LEAST), (ForgeBusy("busy", 77.0), 77.0)])
def test_webhooks_without_end_cut_no_pause_short(settings: Any, error: Exception | None, least: float) -> None:
    class Stop(threading.Event):
        """It ends with the third pause, each of which is over at once."""

        def __init__(self) -> None:
            super().__init__()
            self.waits = list[float]()

        def wait(self, timeout: float | None = None) -> bool:
            self.waits.append(timeout or 0.0)
            if len(self.waits) == 3:
                self.set()
            return self.is_set()

    class Flooded(Desk):
        def pull_requests(self, base: str) -> tuple[PullRequest, ...]:
            made.look_at_pull_requests()
            if error:
                raise error
            return ()

    desk = Flooded()
    made = plans(settings, desk, Planner(), status())
    made._stop = stop = Stop()
    made.look_at_pull_requests()
    made._run()
    assert stop.waits == [least] * 3


def test_live_digest_ignores_signs_of_life() -> None:
    before = live_digest(status())
    assert live_digest(status(health={"message": "0 of 1"})) == before
    assert live_digest(status(liveDigest="b")) != before


@pytest.mark.slow
def test_branch_is_planned_and_nothing_of_it_comes_true(tmp_path: Path) -> None:
    rig = LightRig(tmp_path)
    try:
        rig.start()
        rig.settle()
        main = rig.repository.head()
        head = propose(rig)
        records, accepted = rig.records(), (rig.state_dir / "git" / "accepted.json").read_text()
        desk = Desk(pull(1, head), pull(2, "1" * 40, is_trusted=False), pull(3, "2" * 40))
        now = rig.status()
        assert now
        made = PullRequestPlans(rig.settings, lambda: now, desk, desk.put, desk.sections)  # type: ignore[arg-type]
        # Whose plan takes too long on a busy machine is planned again.
        eventually(lambda: made._look() and made.document()["pullRequests"]["answered"] == 2)
        told, gone = sorted(desk.statuses(), key=lambda each: each.state, reverse=True)
        assert (gone.revision, gone.state) == ("2" * 40, CommitState.ERROR)
        assert "has no branch, tag or commit" in gone.description
        assert (told.revision, told.context, told.state) == (head, "reconciler/demo/plan", CommitState.SUCCESS)
        assert told.description == "1 change without a restart, 1 start"
        (section,) = (each for each in desk.sections() if each.pull_request == 1)
        assert "`--max-model-len: 256 → 64 (demo/tiny.yaml:18)`" in section.text
        assert "`default/second` | start |" in section.text
        assert made.document()["pullRequests"] == {"answered": 2, "notTrusted": 1, "error": ""}
        # Nothing was accepted or started, and the daemon's own folders are as they were.
        assert (rig.state_dir / "git" / "accepted.json").read_text() == accepted
        assert rig.records() == records
        assert git(rig.state_dir / "git" / "repository", "for-each-ref", "--format=%(objectname)").split() == [main] * 2
        assert (rig.state_dir / FOLDER / "git" / "repository").is_dir()
        made.stop()
    finally:
        rig.close()


def propose(rig: LightRig) -> str:
    """A branch with a changed and a new service; its commit."""
    git(rig.clone, "checkout", "-q", "-b", "pr")
    text = rig.read("demo/tiny.yaml")
    (rig.clone / "demo/tiny.yaml").write_text(text.replace("--max-model-len=256", "--max-model-len=64"))
    (rig.clone / "demo/second.yaml").write_text(text.replace("name: tiny", "name: second"))
    git(rig.clone, "add", "--all")
    git(rig.clone, "commit", "-q", "-m", "Propose")
    git(rig.clone, "push", "-q", "origin", "pr")
    head = git(rig.clone, "rev-parse", "HEAD")
    git(rig.clone, "checkout", "-q", "main")
    return head


@pytest.mark.slow
def test_end_of_the_daemon_ends_the_process_that_plans(tmp_path: Path) -> None:
    rig = LightRig(tmp_path)
    try:
        desk = Desk(pull(1, rig.repository.head()))
        now = status()
        made = PullRequestPlans(rig.settings, lambda: now, desk, desk.put, desk.sections)  # type: ignore[arg-type]
        (rig.state_dir).mkdir(mode=0o700)
        made._thread.start()
        made.look_at_pull_requests()
        process = None
        while process is None:
            time.sleep(0.01)
            process = made._process._running
        made.stop()
        process.wait(10)
        assert not made._thread.is_alive()
        assert not desk.said
        assert subprocess.run(["pgrep", "-g", str(process.pid)], capture_output=True).stdout == b""
    finally:
        rig.close()
