"""The pages of changes and of the repository over HTTP: a real repository, history and outbox, and passes as data."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from reconciler.config.forge import ForgeSettings
from reconciler.config.settings import Settings, SourceSettings
from reconciler.forge.outbox import Outbox
from reconciler.forge.plan_comment import failed_plan
from reconciler.loop.page_facts import DaemonPageFacts
from reconciler.model import (
    NO_ORIGIN,
    Health,
    HealthStatus,
    Origin,
    Outcome,
    Reason,
    ReasonCode,
    Result,
    Snapshot,
    Start,
    Sync,
)
from reconciler.report.history import FETCHED, History
from reconciler.report.status import RefusedRevision, RevisionInfo, TargetReport
from reconciler.source import GitSource
from reconciler.web.metrics import Metrics
from reconciler.web.server import WebSide
from tests.support.git_repository import Repository
from tests.support.report_world import (
    NEW,
    SPEC,
    desired,
    planned,
    rejection,
    replica,
    report,
    settings,
    state,
    status_of,
    verdict,
)
from tests.web.fake_loop import FakeLoop
from tests.web.test_pages import get

EVIL = "</script><script>alert(1)</script>\u202e\x1b[31m"


@dataclass
class World:
    """A daemon whose passes are set by hand."""

    folder: Path
    repository: Repository
    config: Settings = field(init=False)
    reports: list[TargetReport] = field(default_factory=list)
    snapshot: Snapshot | None = None
    loop: FakeLoop = field(default_factory=FakeLoop)

    def __post_init__(self) -> None:
        self.config = settings(
            self.folder / "state",
            source=SourceSettings(url=str(self.repository.path)),
            forge=ForgeSettings(kind="github", url="https://github.example.com", repository="team/models"),
        )
        self.config.state_dir.mkdir(parents=True)
        self.history = History(self.config.state_dir / "history.db")
        self.outbox = Outbox(self.config.state_dir / "outbox.db")
        self.source = GitSource(self.config.source, self.config.state_dir / "git", ("runtimes", "hosts/a"))
        self.loop.facts = DaemonPageFacts(
            self.config,
            self.history,
            lambda: list(zip(self.config.targets, self.reports, strict=False)),
            lambda: self.snapshot,
            lambda: self.outbox,
        )
        self.web = WebSide(self.config, self.loop, Metrics())

    def pull(self) -> str:
        """Take over what is in the repository; its revision."""
        self.snapshot = self.source.poll()
        self.note(FETCHED, "1 services in git")
        self.see(report())
        return self.snapshot.revision

    def note(self, event: str, message: str, service: str = "", revision: str = "", target: str = "a") -> None:
        assert self.snapshot
        self.history.note(target, revision or self.snapshot.revision, service, event, message, 1_000.0)

    def see(self, one: TargetReport, applied: bool = False, **revision: Any) -> None:
        """The latest pass."""
        assert self.snapshot
        now = self.snapshot.revision
        one = replace(one, desired=one.desired and replace(one.desired, revision=now), applied=now if applied else "")
        info = RevisionInfo(now, now if applied else "", self.snapshot.subject, fetched_at=1_000.0, **revision)
        self.reports, self.loop.document = [one], status_of(one, revision=info)

    def json(self, path: str) -> dict[str, Any]:
        response, text = get(self.web, path, "application/json")
        assert response.status == 200, text
        found: dict[str, Any] = json.loads(text)
        return found

    def page(self, path: str) -> str:
        response, text = get(self.web, path)
        assert response.status == 200, text
        return text


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    repository = Repository(tmp_path / "origin")
    repository.write("runtimes/vllm.yaml", "kind: ServingRuntime\n")
    repository.write("hosts/a/tiny.yaml", "kind: InferenceService\n")
    repository.commit("Serve tiny")
    made = World(tmp_path, repository)
    made.web.start()
    yield made
    made.web.stop()


def planned_change() -> TargetReport:
    """Git wants another argument in line 9; one action is next, one has failed."""
    spec = replace(SPEC, args=(*SPEC.args[:1], replace(SPEC.args[1], text="--max-model-len=256")))
    spec = replace(spec, args=tuple(replace(one, origin=Origin("hosts/a/tiny.yaml", 9)) for one in spec.args))
    wanted = desired(digest=NEW, spec=spec, warnings=(Reason(ReasonCode.NO_EFFECT, "no effect", Origin("x", 1)),))
    start = Start(replica().id, NEW, spec, wanted.origin, replica().lease, 1.0, "", "", "git wants another version")
    moving = Health(HealthStatus.PROGRESSING, Reason(ReasonCode.PROGRESSING, "starting", NO_ORIGIN))
    return report(
        desired=state(
            wanted, refused=(Reason(ReasonCode.SECRET_NOT_ALLOWED, "a Secret", Origin("hosts/a/s.yaml", 2)),)
        ),
        plan=planned(verdict(sync=Sync.OUT_OF_SYNC, health=moving), actions=(start,)),
        last_results=(Result(start, Outcome.FAILED, "no port: HF_TOKEN=hf_abcdefghijklmnopqrst"),),
    )


def test_desired_revision_shows_commit_plan_and_differences_by_line(world: World) -> None:
    revision = world.pull()
    world.see(planned_change())
    found = world.json(f"/changes/{revision[:7]}")
    assert (found["revision"], found["isDesired"]) == (revision, True)
    assert found["commit"]["subject"] == "Serve tiny"
    assert found["forge"] == f"https://github.example.com/team/models/commit/{revision}"
    (target,) = found["targets"]
    assert target["outcome"]["word"] == "being applied"
    (service,) = target["plan"]["services"]
    (difference,) = service["differences"]
    assert difference["path"] == ["args", "--max-model-len"]
    assert (difference["before"], difference["after"]) == ("128", "256")
    assert difference["forge"].endswith(f"/blob/{revision}/hosts/a/tiny.yaml#L9")
    assert service["actions"][0]["reason"] == "git wants another version"
    assert target["plan"]["findings"][0]["code"] == "SecretNotAllowed"
    assert target["results"][0]["error"] == "no port: HF_TOKEN=***"
    page = world.page(f"/changes/{revision}")
    for text in (
        "Serve tiny",
        "being applied",
        "args / --max-model-len",
        "hosts/a/tiny.yaml:9",
        'id="target-a/demo/tiny"',
    ):
        assert text in page


def test_rejected_revision_shows_the_last_words_of_the_engine(world: World) -> None:
    revision = world.pull()
    world.history.reject("a", replace(rejection(), revision=revision))
    world.note("digest_quarantined", "refused", "demo/tiny")
    found = world.json(f"/changes/{revision}")
    (rejected,) = found["rejected"]
    assert rejected["logTail"] == ["usage: vllm", "error: HF_TOKEN=***"]
    assert (rejected["anchor"], rejected["line"]) == ("target-a/demo/tiny", 12)
    assert found["targets"][0]["outcome"] == {
        "target": "a", "kind": "bad", "word": "1 rejected", "text": "demo/tiny"
    }  # fmt: skip
    assert "unrecognized argument --max-modle-len" in world.page(f"/changes/{revision}")


def test_older_revision_shows_what_became_of_it_and_what_came_after(world: World) -> None:
    first = world.pull()
    world.note("applied", "everything is in sync")
    world.repository.write("hosts/a/tiny.yaml", "kind: InferenceService\nspec: {}\n")
    world.repository.commit("Change tiny")
    second = world.pull()
    found = world.json(f"/changes/{first}")
    assert (found["isDesired"], found["supersededBy"]) == (False, second)
    assert [one["event"] for one in found["history"]] == [FETCHED, "applied"]
    assert found["targets"][0]["outcome"]["word"] == "applied"
    assert found["targets"][0]["plan"] is None
    assert "Superseded" in world.page(f"/changes/{first}")


def test_refused_revision_says_why(world: World) -> None:
    world.pull()
    newer = "c" * 40
    world.see(report(), refused=RefusedRevision(newer, "main is not signed"))
    found = world.json(f"/changes/{newer[:9]}")
    assert found["refusal"] == "main is not signed"
    assert found["commit"] is None
    assert "main is not signed" in world.page(f"/changes/{newer}")


def test_head_of_a_pull_request_shows_what_its_plan_said(world: World) -> None:
    world.pull()
    head = "d" * 40
    told = failed_plan(head, "a", 7, "too large"), failed_plan("e" * 40, "a", 8, "too large")
    world.outbox.put([message for each in told for message in each], 1.0)
    found = world.json(f"/changes/{head}")
    assert found["isProposed"]
    assert found["said"][0]["description"] == "no plan: too large"
    assert [one["pullRequest"] for one in found["sections"]] == [7]
    assert "Plan of pull request 7" in world.page(f"/changes/{head}")


def test_commit_that_was_passed_over_is_shown_all_the_same(world: World) -> None:
    between = world.repository.commit("Never looked at")
    world.repository.commit("Looked at")
    world.pull()
    found = world.json(f"/changes/{between}")
    assert (found["commit"]["subject"], found["history"], found["targets"]) == ("Never looked at", [], [])
    assert "Never desired here" in world.page(f"/changes/{between}")


@pytest.mark.parametrize(
    ("digits", "says"),
    [
        ("f" * 40, "knows no revision that begins with"),
        ("abc", "is not a revision: give 7 to 40 digits"),
        ("main", "is not a revision"),
        ("%3Cscript%3E", "is not a revision"),
    ],
)
def test_revision_that_is_not_known_says_what_to_do(world: World, digits: str, says: str) -> None:
    world.pull()
    response, text = get(world.web, f"/changes/{digits}")
    assert response.status == 404
    assert says in text
    assert "<script>" not in text


def test_ambiguous_digits_name_the_choices(world: World) -> None:
    world.pull()
    for end in "ab":
        world.note(FETCHED, "x", revision=f"1234567{end}".ljust(40, "0"))
    response, text = get(world.web, "/changes/1234567")
    assert response.status == 404
    assert "any of several revisions; give more digits of one: 1234567a0000, 1234567b0000" in text


def test_list_has_the_latest_first_and_leads_to_older_ones(world: World) -> None:
    first = world.pull()
    world.note("applied", "done")
    for number in range(60):
        world.note(FETCHED, "x", revision=f"{number:040x}")
    last = world.repository.commit("Newest")
    world.pull()
    found = world.json("/changes")
    assert found["revisions"][0]["revision"] == last
    assert found["revisions"][0]["subject"] == "Newest"
    assert found["revisions"][0]["isDesired"]
    assert len(found["revisions"]) == 50
    older = world.json(f"/changes?before={found['older']}")
    assert older["revisions"][-1]["revision"] == first
    assert older["revisions"][-1]["outcomes"][0]["word"] == "applied"
    assert (older["older"], older["isFirst"]) == (None, False)
    assert "Newest" in world.page("/changes")
    assert world.json("/changes?before=nonsense")["isFirst"]


def test_repository_shows_findings_first_with_their_lines(world: World) -> None:
    world.repository.write("hosts/a/fine.yaml")
    world.repository.commit("More")
    revision = world.pull()
    broken = Reason(ReasonCode.INVALID_DOCUMENT, "spec: unknown field", Origin("hosts/a/broken.yaml", 4))
    whole = Reason(ReasonCode.PATH_NOT_FOUND, "no such folder", NO_ORIGIN)
    service = desired(warnings=(Reason(ReasonCode.NO_EFFECT, "no effect", Origin("hosts/a/tiny.yaml", 9)),))
    world.see(report(desired=state(service, unreadable=(broken,), notes=(whole,))))
    found = world.json("/repository")
    assert [one["file"] for one in found["files"]] == [
        "hosts/a/broken.yaml", "hosts/a/tiny.yaml", "hosts/a/fine.yaml", "runtimes/vllm.yaml"
    ]  # fmt: skip
    assert found["files"][0]["findings"][0]["forge"].endswith(f"/blob/{revision}/hosts/a/broken.yaml#L4")
    assert found["files"][1]["contents"][0]["page"] == "/services/a/demo/tiny"
    assert found["targets"][0]["findings"][0]["message"] == "no such folder"
    assert [one["file"] for one in world.json("/repository?only=findings&q=EFFECT")["files"]] == ["hosts/a/tiny.yaml"]
    page = world.page("/repository?only=findings&target=a")
    assert "spec: unknown field" in page
    assert "fine.yaml" not in page


def test_repository_of_an_unknown_target_names_those_there_are(world: World) -> None:
    world.pull()
    response, text = get(world.web, "/repository?target=b")
    assert response.status == 404
    assert "Targets are a." in text


def test_texts_of_others_do_no_harm_on_any_page(world: World) -> None:
    world.repository.commit(f"Subject {EVIL}\n\nBody {EVIL}")
    revision = world.pull()
    world.history.note("a", revision, "demo/tiny", FETCHED, EVIL, 5.0)
    words = replace(rejection(), revision=revision, last_words=(EVIL, "x" * 1_000_000))
    world.history.reject("a", words)
    bad = Reason(ReasonCode.INVALID_DOCUMENT, EVIL, Origin(f"hosts/a/{EVIL}.yaml", 1))
    world.see(report(desired=state(desired(problems=(bad,)), unreadable=(bad,), notes=(bad,))), error=EVIL)
    for path in (f"/changes/{revision}", "/changes", "/repository", "/repository?q=%3Cscript%3E"):
        page = world.page(path)
        assert "<script>alert" not in page
        assert "\u202e" not in page
        assert "\x1b" not in page
        assert len(page) < 200_000


def test_before_git_was_read_pages_say_so(world: World) -> None:
    world.loop.document = status_of(report(desired=None, plan=None, observed=None), revision=RevisionInfo())
    world.reports = [report(desired=None, plan=None, observed=None)]
    assert "No revision has been read yet." in world.page("/repository")
    assert "The history holds no revision yet." in world.page("/changes")


def test_failed_pass_leaves_the_page_without_a_plan(world: World) -> None:
    revision = world.pull()
    world.see(replace(report(), plan=None, pass_error="disk full"))
    assert world.json(f"/changes/{revision}")["targets"][0]["name"] == "a"
