"""The provider for GitHub: what it asks is valid by GitHub's own description, and what GitHub answers is understood."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reconciler.errors import Retryable, Terminal
from reconciler.forge import comments
from reconciler.forge.checks import wanted
from reconciler.forge.http import ForgeBusy, ForgeRefused, LoginRefused
from reconciler.forge.messages import MOST_DESCRIPTION, Comment, CommentSection, CommitState, CommitStatus, Deployment
from reconciler.forge.port import Forge
from reconciler.report.findings import CheckResult, Level
from tests.forge import github_parts as parts
from tests.forge.github_api import (
    MOST_STATUSES,
    NAME,
    OWN_ID,
    USER_ID,
    GitHubApi,
    primary_limit,
    pull,
    written,
)
from tests.forge.github_description import description
from tests.forge.github_parts import provider, token_file
from tests.forge.local_forge import LocalForge, Reply, local_forge
from tests.support.examples import examples

pytestmark = pytest.mark.forge

HEAD, OTHER = "a" * 40, "b" * 40
_SECONDARY = {"message": "You have exceeded a secondary rate limit."}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalForge]:
    with local_forge(tmp_path_factory.mktemp("github"), lambda asked: Reply(500)) as server:
        yield server


@pytest.fixture
def api(server: LocalForge) -> Iterator[GitHubApi]:
    server.answer = api = GitHubApi(description(), commits={HEAD, OTHER})
    server.asked.clear()
    yield api
    assert not api.problems


@pytest.fixture
def github(server: LocalForge, api: GitHubApi, tmp_path: Path) -> Forge:
    return provider(server, tmp_path)


def status(description: str = "2 updated", state: CommitState = CommitState.SUCCESS, **values: str) -> CommitStatus:
    return CommitStatus(
        **{"revision": HEAD, "context": "reconciler/gpu-1", **values}, state=state, description=description
    )


def deployment(
    state: CommitState = CommitState.SUCCESS, revision: str = HEAD, environment: str = "gpu-1"
) -> Deployment:
    return Deployment(revision, environment, state, "2 updated", "https://reconciler.example.com")


# ---------------------------------------------------------------- commit statuses


def test_status_is_shown_with_its_link(github: Forge, api: GitHubApi) -> None:
    github.set_status(status(url="https://reconciler.example.com/"))
    assert api.statuses == [
        {
            "sha": HEAD,
            "state": "success",
            "context": "reconciler/gpu-1",
            "description": "2 updated",
            "target_url": "https://reconciler.example.com/",
        }
    ]


def test_superseded_revision_is_closed_as_an_error(github: Forge, api: GitHubApi) -> None:
    github.set_status(status("superseded by bbbbbbb", CommitState.SUPERSEDED))
    assert api.shown(HEAD) == {"reconciler/gpu-1": ("error", "superseded by bbbbbbb")}


def test_status_beyond_the_cap_of_github_counts_as_done(github: Forge, api: GitHubApi) -> None:
    api.statuses = [{"sha": HEAD, "context": "reconciler/gpu-1"}] * MOST_STATUSES
    github.set_status(status())
    assert len(api.statuses) == MOST_STATUSES
    github.set_status(status(context="reconciler/gpu-2"))
    assert len(api.statuses) == MOST_STATUSES + 1


def test_standing_status_is_not_sent_twice(github: Forge, server: LocalForge) -> None:
    assert github.standing(HEAD, "reconciler/fleet") is None
    said = status("gpu-1: 1 rejected", CommitState.FAILURE, context="reconciler/fleet")
    github.set_status(said)
    assert github.standing(HEAD, "reconciler/fleet") == said
    server.asked.clear()
    assert github.standing(HEAD, "reconciler/fleet") == said
    assert [asked.headers.get("if-none-match", "")[:3] for asked in server.asked] == ['W/"']


def test_status_of_an_unknown_commit_is_given_up(github: Forge) -> None:
    with pytest.raises(Terminal, match=f"it does not know this commit: {'c' * 40}; was it pushed to another"):
        github.set_status(status(revision="c" * 40))


def test_status_that_is_too_long_says_what_is_wrong(github: Forge) -> None:
    with pytest.raises(ForgeRefused, match=r"422 Validation Failed, description is too long \(maximum is 140"):
        github.set_status(status("x" * (MOST_DESCRIPTION + 1)))


# ---------------------------------------------------------------- logins and limits


def test_token_that_was_revoked_works_once_it_is_replaced(github: Forge, api: GitHubApi, tmp_path: Path) -> None:
    api.token = "another-token"
    with pytest.raises(LoginRefused, match="401 Bad credentials; check the token"):
        github.set_status(status())
    token_file(tmp_path, "another-token")
    github.set_status(status())
    assert api.shown(HEAD)


def test_token_without_the_right_waits_for_a_better_one(github: Forge, api: GitHubApi) -> None:
    api.permissions = set()
    why = "403 Resource not accessible by personal access token; check the token, which needs statuses=write"
    with pytest.raises(LoginRefused, match=why):
        github.set_status(status())
    api.scopes = "read:org"
    with pytest.raises(LoginRefused, match=r"404 Not Found; check forge\.repository"):
        github.set_status(status())


@pytest.mark.parametrize(
    ("limit", "least", "most"),
    [
        # It names a time, which is told from now.
        (lambda: primary_limit(600), 500, 600),
        (lambda: Reply(429, _SECONDARY, {"Retry-After": "90"}), 90, 90),
        (lambda: Reply(403, _SECONDARY, {"Retry-After": "90"}), 90, 90),
        (lambda: Reply(403, {"message": "You have exceeded a secondary rate limit. Please wait."}), 60, 60),
    ],
    ids=["primary", "secondary-429", "secondary-403", "secondary-without-header"],
)
def test_limit_of_requests_is_waited_for(
    github: Forge, api: GitHubApi, limit: Callable[[], Reply], least: float, most: float
) -> None:
    api.limit = limit()
    with pytest.raises(ForgeBusy) as raised:
        github.set_status(status())
    assert least <= raised.value.retry_after <= most


def test_repository_that_moved_asks_for_its_new_name(github: Forge, api: GitHubApi) -> None:
    api.limit = Reply(301, {"message": "Moved Permanently", "url": "https://api.github.com/repositories/1"})
    with pytest.raises(Retryable, match=r"301 Moved Permanently; .* check its address and the repository's name"):
        github.set_status(status())


# ---------------------------------------------------------------- deployments


def test_deployment_is_made_once_per_revision_and_target(github: Forge, api: GitHubApi) -> None:
    for state in (CommitState.PENDING, CommitState.FAILURE, CommitState.SUCCESS, CommitState.SUCCESS):
        github.set_deployment(deployment(state))
    github.set_deployment(deployment(environment="gpu-2"))
    github.set_deployment(deployment(revision=OTHER))
    assert [(one["sha"], one["environment"]) for one in api.deployments] == [
        (HEAD, "gpu-1"),
        (HEAD, "gpu-2"),
        (OTHER, "gpu-1"),
    ]
    states = [body["state"] for number, body in api.deployment_statuses if number == api.deployments[0]["id"]]
    assert states == ["in_progress", "failure", "success", "success"]


def test_revision_that_is_back_is_the_newest_deployment(github: Forge, api: GitHubApi) -> None:
    for revision in (HEAD, OTHER, HEAD):
        github.set_deployment(deployment(revision=revision))
    assert [one["sha"] for one in api.deployments] == [HEAD, OTHER, HEAD]


def test_deployment_of_others_is_left_alone(github: Forge, api: GitHubApi) -> None:
    api.deployments = [{"id": 1, "sha": HEAD, "environment": "gpu-1", "task": "deploy"}]
    github.set_deployment(deployment())
    assert [number for number, _ in api.deployment_statuses] == [api.deployments[1]["id"]]


def test_superseded_deployment_becomes_inactive(github: Forge, api: GitHubApi) -> None:
    github.set_deployment(deployment(CommitState.SUPERSEDED))
    assert not api.deployments
    github.set_deployment(deployment(CommitState.PENDING))
    github.set_deployment(deployment(CommitState.SUPERSEDED))
    assert [body["state"] for _, body in api.deployment_statuses] == ["in_progress", "inactive"]


def test_deployment_of_an_unknown_commit_is_given_up(github: Forge) -> None:
    with pytest.raises(Terminal, match="it does not know this commit"):
        github.set_deployment(deployment(revision="c" * 40))


# ---------------------------------------------------------------- pull requests and comments


def test_pull_requests_of_forks_are_not_trusted(github: Forge, api: GitHubApi) -> None:
    api.pulls = [
        pull(1, HEAD),
        pull(2, OTHER, repository=OWN_ID + 1),
        pull(3, OTHER, repository=None),
        pull(4, HEAD, "x"),
    ]
    assert [(one.number, one.head, one.is_trusted) for one in github.pull_requests("main")] == [
        (1, HEAD, True),
        (2, OTHER, False),
        (3, OTHER, False),
    ]


def test_pull_requests_are_read_page_by_page(github: Forge, api: GitHubApi) -> None:
    api.pulls = [pull(number, HEAD) for number in range(1, 72)]
    assert [one.number for one in github.pull_requests("main")] == list(range(1, 72))


def test_pull_requests_that_did_not_change_are_not_sent_again(
    github: Forge, api: GitHubApi, server: LocalForge
) -> None:
    api.pulls = [pull(number, HEAD) for number in range(1, 72)]
    first = github.pull_requests("main")
    server.asked.clear()
    assert github.pull_requests("main") == first
    assert len(server.asked) == 3
    assert all("if-none-match" in asked.headers for asked in server.asked)
    api.pulls[70] = pull(71, OTHER)
    assert github.pull_requests("main")[70].head == OTHER


def test_comments_tell_ours_from_those_of_others(github: Forge, api: GitHubApi) -> None:
    api.comments[7] = [written(1, "hello", user=1), written(2, "ours")]
    assert github.comments(7) == (Comment("1", "hello", False), Comment("2", "ours", True))


def test_token_of_a_ci_takes_no_persons_comment_for_its_own(github: Forge, api: GitHubApi) -> None:
    """GitHub Actions' may not ask whose it is; whoever may comment could copy our mark before us."""
    forged = written(1, comments.HEAD, user=1)
    api.comments[7], api.is_of_a_ci = [forged], True
    comments.deliver(github, CommentSection(7, "gpu-1", "restarts 2"))
    comments.deliver(github, CommentSection(7, "gpu-1", "restarts 3"))
    assert [one["body"] == comments.HEAD for one in api.comments[7]] == [True, False]
    assert "restarts 3" in api.comments[7][1]["body"]


def test_section_lands_in_one_comment_among_many(github: Forge, api: GitHubApi) -> None:
    api.comments[7] = [written(1000 + number, f"chat {number}", user=1) for number in range(95)]
    comments.deliver(github, CommentSection(7, "gpu-1", "restarts 2"))
    comments.deliver(github, CommentSection(7, "gpu-2", "nothing"))
    comments.deliver(github, CommentSection(7, "gpu-1", "restarts 3"))
    (ours,) = [one["body"] for one in api.comments[7] if one["user"]["id"] == USER_ID]
    assert "restarts 3" in ours
    assert "nothing" in ours
    assert "restarts 2" not in ours


def test_comment_that_is_gone_is_given_up(github: Forge) -> None:
    with pytest.raises(Terminal):
        github.edit_comment(7, "404", "text")
    with pytest.raises(Terminal):
        github.add_comment(8, "text")


# ---------------------------------------------------------------- what doctor finds


def levels(found: tuple[CheckResult, ...]) -> dict[str, Level]:
    return {one.message.partition(":")[0]: one.level for one in found}


def test_check_of_a_good_token_posts_nothing(github: Forge, api: GitHubApi) -> None:
    found = github.check()
    assert {one.level for one in found} == {Level.OK}
    assert [one.message for one in found[1:]] == [
        "the token may post commit statuses",
        "the token may read pull requests",
        "the token may report deployments",
    ]
    assert not api.statuses
    assert not api.deployments


@pytest.mark.parametrize("scopes", [None, ""])
def test_check_names_what_the_token_may_not(github: Forge, api: GitHubApi, scopes: str | None) -> None:
    api.permissions, api.scopes = set(), scopes
    found = levels(github.check())
    assert found["the token may not post commit statuses"] is Level.PROBLEM
    assert found["the token may not read pull requests"] is Level.PROBLEM
    assert found["the token may not report deployments"] is Level.PROBLEM


def test_check_leaves_out_what_the_config_does_not_need(server: LocalForge, api: GitHubApi, tmp_path: Path) -> None:
    def rights(**forge: Any) -> set[str]:
        found = wanted(provider(server, tmp_path, **forge).check(), parts.settings(server, tmp_path, **forge).forge)
        return {one.message.removeprefix("the token may ") for one in found if one.message.startswith("the token may ")}

    assert rights() == {"post commit statuses"}
    assert rights(statuses="none", pull_requests="plan") == {"read pull requests"}
    assert rights(deployments=True) == {"post commit statuses", "report deployments"}


def test_check_reads_the_scopes_of_a_classic_token(github: Forge, api: GitHubApi) -> None:
    api.scopes = "repo:status, read:org"
    found = github.check()[-1]
    assert found.level is Level.PROBLEM
    assert found.message == "the token may not comment on pull requests: its scopes are read:org, repo:status"
    api.scopes = "repo"
    assert github.check()[-1].message == "the token may comment on pull requests"


def test_check_warns_of_a_token_that_ends_soon(github: Forge, api: GitHubApi) -> None:
    api.headers = {"GitHub-Authentication-Token-Expiration": "2020-01-01 00:00:00 UTC"}
    assert github.check()[-1].level is Level.WARNING
    api.headers = {"GitHub-Authentication-Token-Expiration": "2999-01-01 00:00:00 +0100"}
    assert github.check()[-1].level is Level.OK


def test_check_of_a_hidden_repository_names_the_key(server: LocalForge, api: GitHubApi, tmp_path: Path) -> None:
    (found,) = provider(server, tmp_path, repository="team/others").check()
    assert found.level is Level.PROBLEM
    assert "forge.repository" in found.fix


def test_name_says_which_github_and_repository(github: Forge, server: LocalForge) -> None:
    assert github.name == f"GitHub on {server.url.removeprefix('https://')}, {NAME}"


# ---------------------------------------------------------------- whatever we say, GitHub understands it

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=MOST_DESCRIPTION)
TARGET = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True)
CONTEXT = st.lists(TARGET, min_size=1, max_size=3).map(lambda parts: "/".join(["reconciler", *parts]))
URL = st.sampled_from(["", "https://reconciler.example.com/#/services/a/b?c=d"])
STATE = st.sampled_from(CommitState)
MESSAGE = st.one_of(
    st.builds(CommitStatus, st.just(HEAD), CONTEXT, STATE, TEXT, URL),
    st.builds(Deployment, st.just(HEAD), TARGET, STATE, TEXT, URL),
    st.builds(CommentSection, st.just(7), TARGET, st.text(st.characters(exclude_categories=["Cs"]))),
)


@settings(max_examples=examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(message=MESSAGE)
def test_any_message_is_a_valid_request(github: Forge, api: GitHubApi, message: Any) -> None:
    api.comments.setdefault(7, [])
    before, known = len(api.deployment_statuses), {one["environment"] for one in api.deployments}
    match message:
        case CommitStatus():
            github.set_status(message)
            assert api.shown(HEAD)[message.context][1] == message.description
        case Deployment():
            github.set_deployment(message)
            is_said = message.state is not CommitState.SUPERSEDED or message.environment in known
            assert len(api.deployment_statuses) == before + is_said
        case CommentSection():
            comments.deliver(github, message)
    assert not api.problems
