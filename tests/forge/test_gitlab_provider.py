"""The provider for GitLab, against its API's description."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.forge.gitlab import GitLab
from reconciler.forge.messages import Comment, CommitState, CommitStatus, Deployment
from reconciler.report.findings import Level
from tests.forge.gitlab_api import GitLabApi
from tests.forge.local_forge import LocalForge, Reply, local_forge
from tests.forge.messages import REVISIONS, deployments, statuses
from tests.support.examples import examples

NEW, OLD = REVISIONS[:2]
Connect = Callable[[], tuple[GitLabApi, GitLab]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalForge]:
    with local_forge(tmp_path_factory.mktemp("pki"), lambda asked: Reply()) as server:
        yield server


@pytest.fixture(scope="module")
def connect(server: LocalForge) -> Iterator[Connect]:
    """A new project each time; what was asked of any was as described."""
    made: list[GitLabApi] = []

    def new() -> tuple[GitLabApi, GitLab]:
        api = GitLabApi()
        made.append(api)
        server.answer = api
        return api, GitLab(server.http("/api/v4"), "models/serving")

    yield new
    assert [violation for api in made for violation in api.violations] == []


def _status(state: CommitState, description: str = "1 updated", revision: str = NEW) -> CommitStatus:
    return CommitStatus(revision, "reconciler/gpu-1", state, description, "https://gpu-1.example.com/")


@settings(max_examples=examples(30))
@given(said=st.lists(statuses, max_size=4))
def test_status_said_twice_is_as_if_said_once(connect: Connect, said: list[CommitStatus]) -> None:
    api, gitlab = connect()
    for status in said:
        gitlab.set_status(status)
        before = [dict(one) for one in api.statuses]
        gitlab.set_status(status)
        assert api.statuses == before


def test_pending_status_with_other_words_is_done(connect: Connect) -> None:
    api, gitlab = connect()
    gitlab.set_status(_status(CommitState.PENDING))
    gitlab.set_status(_status(CommitState.PENDING, "2 updated"))
    assert len(api.statuses) == 1


def test_status_ends_in_the_pipeline_where_it_began(connect: Connect) -> None:
    api, gitlab = connect()
    gitlab.set_status(_status(CommitState.PENDING))
    api.begin_pipeline(NEW)
    gitlab.set_status(_status(CommitState.SUCCESS))
    assert [(one["pipeline_id"], one["status"]) for one in api.statuses] == [(1, "success")]


def _deployed(state: CommitState, revision: str = NEW) -> Deployment:
    return Deployment(revision, "gpu-1", state, "1 updated")


@settings(max_examples=examples(30))
@given(said=st.lists(deployments, max_size=6))
def test_deployment_said_twice_is_as_if_said_once(connect: Connect, said: list[Deployment]) -> None:
    api, gitlab = connect()
    for deployment in said:
        gitlab.set_deployment(deployment)
        before = [dict(one) for one in api.deployments]
        gitlab.set_deployment(deployment)
        assert api.deployments == before
    assert api.violations == []


@pytest.mark.parametrize(
    ("said", "made"),
    [
        ([(CommitState.PENDING, NEW), (CommitState.SUCCESS, NEW)], [(NEW, "success")]),
        ([(CommitState.SUCCESS, NEW), (CommitState.FAILURE, NEW)], [(NEW, "failed")]),
        ([(CommitState.PENDING, OLD), (CommitState.SUPERSEDED, OLD)], [(OLD, "canceled")]),
        ([(CommitState.SUCCESS, OLD), (CommitState.SUPERSEDED, OLD)], [(OLD, "success")]),
        ([(CommitState.SUPERSEDED, OLD)], []),
        # Rolled back: the old revision is deployed again, and is the newest deployment.
        (
            [(CommitState.SUCCESS, OLD), (CommitState.FAILURE, NEW), (CommitState.SUCCESS, OLD)],
            [(OLD, "success"), (NEW, "failed"), (OLD, "success")],
        ),
        ([(CommitState.FAILURE, NEW), (CommitState.PENDING, NEW)], [(NEW, "failed"), (NEW, "running")]),
        (
            [(CommitState.PENDING, OLD), (CommitState.PENDING, NEW), (CommitState.SUPERSEDED, OLD)],
            [(OLD, "canceled"), (NEW, "running")],
        ),
        (
            [(CommitState.PENDING, OLD), (CommitState.FAILURE, NEW), (CommitState.SUCCESS, OLD)],
            [(OLD, "success"), (NEW, "failed"), (OLD, "success")],
        ),
    ],
)
def test_deployments_follow_what_was_said(
    connect: Connect, said: list[tuple[CommitState, str]], made: list[tuple[str, str]]
) -> None:
    api, gitlab = connect()
    for state, revision in said:
        gitlab.set_deployment(_deployed(state, revision))
    assert [(one["sha"], one["status"]) for one in api.deployments] == made


def test_merge_requests_of_forks_are_not_trusted(connect: Connect) -> None:
    api, gitlab = connect()
    one = {"target_branch": "main", "target_project_id": 1, "title": "Add granite", "web_url": "https://x/1"}
    api.pull_requests = [
        {**one, "iid": 1, "sha": NEW, "source_project_id": 1},
        {**one, "iid": 2, "sha": OLD, "source_project_id": 9},
        {**one, "iid": 3, "sha": None, "source_project_id": 1},
        {**one, "iid": 4, "sha": NEW, "source_project_id": 1, "target_branch": "next"},
        {**one, "iid": 5, "sha": NEW, "source_project_id": None, "target_project_id": None},
    ]
    found = gitlab.pull_requests("main")
    assert [(request.number, request.head, request.is_trusted) for request in found] == [
        (1, NEW, True),
        (2, OLD, False),
        (5, NEW, False),
    ]
    assert (found[0].base, found[0].title, found[0].url) == ("main", "Add granite", "https://x/1")


def test_notes_of_gitlab_itself_are_no_comments(connect: Connect) -> None:
    api, gitlab = connect()
    api.comments = [
        {"id": 1, "body": "changed the title", "system": True, "author": {"id": 7}},
        {"id": 2, "body": "looks good", "system": False, "author": {"id": 8}},
    ]
    gitlab.add_comment(1, "our plan")
    assert gitlab.comments(1) == (Comment("2", "looks good", False), Comment("3", "our plan", True))


@settings(max_examples=examples(30))
@given(
    body=st.lists(st.sampled_from(["/merge", "\\/merge", " /close", "text", "`/x`", "\r", "a/b", "\\"])).map("\n".join)
)
def test_comment_comes_back_as_written_and_orders_nothing(connect: Connect, body: str) -> None:
    api, gitlab = connect()
    gitlab.add_comment(1, "plan")
    gitlab.edit_comment(1, "1", f"plan\n{body}")
    gitlab.add_comment(1, f"plan\n{body}")
    assert [comment.body for comment in gitlab.comments(1)] == [f"plan\n{body}"] * 2
    lines = "\n".join(api.bodies()).replace("\r", "").split("\n")
    assert not [line for line in lines if line.lstrip().startswith("/")]


@pytest.mark.parametrize(
    ("scopes", "role", "level", "says"),
    [
        (["api"], 30, Level.OK, "may post"),
        (["read_api", "read_user"], 30, Level.PROBLEM, "its scopes are read_api, read_user"),
        (["api"], 20, Level.PROBLEM, "below Developer"),
        (["api"], None, Level.OK, "may post"),
        (None, 40, Level.WARNING, "cannot be told"),
    ],
)
def test_doctor_says_what_the_token_lacks(
    connect: Connect, scopes: list[str] | None, role: int | None, level: Level, says: str
) -> None:
    api, gitlab = connect()
    api.token = Reply(404, {"message": "404 Not Found"}) if scopes is None else Reply(200, {"scopes": scopes})
    api.project = Reply(200, {"permissions": {"project_access": {"access_level": role} if role else None}})
    reached, right = gitlab.check()
    assert reached.level == Level.OK
    assert (right.level, says in right.message) == (level, True)
    assert level == Level.OK or "scope `api`" in right.fix
