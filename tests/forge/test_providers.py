"""What the providers have in common that no forge of the tests proves, each against its API's description."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.errors import Terminal
from reconciler.forge.azure_devops import AzureDevOps
from reconciler.forge.bitbucket_cloud import BitbucketCloud
from reconciler.forge.bitbucket_server import BitbucketServer
from reconciler.forge.comments import deliver
from reconciler.forge.gitlab import GitLab
from reconciler.forge.http import ForgeAway, LoginRefused
from reconciler.forge.messages import CommentSection, CommitState, CommitStatus
from reconciler.forge.open import Provider
from reconciler.forge.port import Forge
from reconciler.report.findings import Level
from tests.forge import github_parts
from tests.forge.azure_devops_api import AzureDevOpsApi
from tests.forge.bitbucket_cloud_api import BitbucketCloudApi
from tests.forge.bitbucket_server_api import BitbucketServerApi
from tests.forge.described import ProviderApi
from tests.forge.gitlab_api import GitLabApi
from tests.forge.local_forge import LocalForge, Reply, local_forge
from tests.forge.messages import REVISIONS, statuses
from tests.support.examples import examples

NEW, OLD = REVISIONS[:2]


@dataclass(frozen=True)
class Case:
    """`words`: pending, success, failure, error and superseded. `shown_as`: of the context `reconciler/gpu-1`.

    `shows_html`: as text. `waits_in_other_words`: what is pending can be told again with another text.
    """

    api: Callable[[], ProviderApi]
    provider: Provider
    path: str
    repository: str
    words: tuple[str, ...]
    shown_as: str = "reconciler/gpu-1"
    shows_html: bool = True
    waits_in_other_words: bool = True


CASES = {
    "gitlab": Case(
        GitLabApi,
        GitLab,
        "/api/v4",
        "models/serving",
        ("pending", "success", "failed", "failed", "canceled"),
        shows_html=False,
        waits_in_other_words=False,
    ),
    "bitbucket": Case(
        BitbucketCloudApi,
        BitbucketCloud,
        "/2.0",
        "models/serving",
        ("INPROGRESS", "SUCCESSFUL", "FAILED", "FAILED", "STOPPED"),
    ),
    "bitbucket-server": Case(
        BitbucketServerApi,
        BitbucketServer,
        "/rest",
        "models/serving",
        ("INPROGRESS", "SUCCESSFUL", "FAILED", "FAILED", "CANCELLED"),
    ),
    "azure-devops": Case(
        AzureDevOpsApi,
        AzureDevOps,
        "",
        "fabrikam/models/serving",
        ("pending", "succeeded", "failed", "error", "notApplicable"),
        "gpu-1",
    ),
}
Connect: TypeAlias = Callable[[], tuple[ProviderApi, Forge]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalForge]:
    with local_forge(tmp_path_factory.mktemp("pki"), lambda asked: Reply()) as server:
        yield server


@pytest.fixture(scope="module", params=list(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture(scope="module")
def connect(server: LocalForge, case: Case) -> Iterator[Connect]:
    """A new repository each time; what was asked of any was as described."""
    made: list[ProviderApi] = []

    def new() -> tuple[ProviderApi, Forge]:
        api = case.api()
        made.append(api)
        server.answer = api
        return api, case.provider(server.http(case.path), case.repository)

    yield new
    assert [violation for api in made for violation in api.violations] == []


def _status(state: CommitState, revision: str = NEW) -> CommitStatus:
    return CommitStatus(revision, "reconciler/gpu-1", state, "1 updated", "https://gpu-1.example.com/")


@settings(max_examples=examples(30))
@given(said=st.lists(statuses, max_size=5))
def test_any_statuses_are_within_the_caps_and_kept_apart(
    connect: Connect, case: Case, said: list[CommitStatus]
) -> None:
    api, forge = connect()
    last: dict[tuple[str, str], CommitStatus] = {}
    for status in said:
        known = last.get((status.revision, status.context))
        if case.waits_in_other_words or not (known and known.state == status.state == CommitState.PENDING):
            last[status.revision, status.context] = status
        forge.set_status(status)
        before = dict(api.shown)
        forge.set_status(status)
        assert api.shown == before
    assert api.violations == []
    assert sorted(said for _, said in api.shown.values()) == sorted(one.description for one in last.values())


@pytest.mark.parametrize("state", list(CommitState))
def test_state_is_said_in_the_forges_word(connect: Connect, case: Case, state: CommitState) -> None:
    api, forge = connect()
    forge.set_status(_status(state))
    word = dict(zip(CommitState, case.words, strict=True))[state]
    assert api.shown == {(NEW, case.shown_as): (word, "1 updated")}


@pytest.mark.parametrize("context", ["reconciler/gpu-1", f"reconciler/{'long-' * 60}"])
@pytest.mark.parametrize("state", [state for state in CommitState if state is not CommitState.ERROR])
def test_status_that_stands_is_read_back(connect: Connect, state: CommitState, context: str) -> None:
    _, forge = connect()
    status = replace(_status(state), context=context, url="")
    assert forge.standing(NEW, context) is None
    forge.set_status(status)
    assert forge.standing(NEW, context) == status
    assert forge.standing(OLD, context) is None


def test_commit_that_the_forge_does_not_know_is_terminal(connect: Connect) -> None:
    _, forge = connect()
    with pytest.raises(Terminal, match="404"):
        forge.set_status(_status(CommitState.PENDING, "dead" * 10))


def test_pull_requests_of_forks_are_not_trusted(connect: Connect) -> None:
    api, forge = connect()
    api.add_pull_request(1, NEW, "main", is_fork=False)
    api.add_pull_request(2, OLD, "main", is_fork=True)
    api.add_pull_request(3, NEW, "next", is_fork=False)
    found = forge.pull_requests("main")
    assert [(one.number, one.head, one.is_trusted) for one in found] == [(1, NEW, True), (2, OLD, False)]
    assert (found[0].base, found[0].title) == ("main", "Change 1")
    assert found[0].url.startswith("https://")


@pytest.mark.parametrize("base", ['quo"ted', "back\\slash", "release/1.0", "ünï+code"])
def test_branch_may_have_any_name(connect: Connect, base: str) -> None:
    api, forge = connect()
    api.add_pull_request(1, NEW, base, is_fork=False)
    assert [one.base for one in forge.pull_requests(base)] == [base]


def test_all_pull_requests_are_found_page_by_page(connect: Connect) -> None:
    api, forge = connect()
    for number in range(1, 121):
        api.add_pull_request(number, NEW, "main", is_fork=False)
    assert [one.number for one in forge.pull_requests("main")] == list(range(1, 121))


def test_comments_are_read_oldest_first_with_whose_they_are(connect: Connect, case: Case) -> None:
    api, forge = connect()
    for number in range(120):
        api.add_comment(f"comment {number}", is_ours=False)
    forge.add_comment(7, "<!-- reconciler: plan -->\n### Plan\n\n| a |\n|---|\n<!-- reconciler: end gpu-1 -->")
    found = forge.comments(7)
    assert [one.body for one in found][:120] == [f"comment {number}" for number in range(120)]
    assert [one.is_ours for one in found] == [False] * 120 + [True]
    assert found[-1].body.startswith("<!-- reconciler: plan -->\n### Plan")
    assert ("<!--" in api.bodies()[-1]) != case.shows_html


def test_comment_edited_twice_stays_one(connect: Connect) -> None:
    _, forge = connect()
    forge.add_comment(7, "plan")
    (ours,) = forge.comments(7)
    for _ in range(2):
        forge.edit_comment(7, ours.id, "<!-- reconciler: plan -->\nother plan")
    assert [(one.id, one.body) for one in forge.comments(7)] == [(ours.id, "<!-- reconciler: plan -->\nother plan")]


def test_sections_of_two_targets_share_one_comment(connect: Connect) -> None:
    api, forge = connect()
    for target in ("gpu-1", "gpu-2", "gpu-1"):
        deliver(
            forge, CommentSection(7, target, f"#### `{target}`\n\n| service | change |\n|---|---|\n| `granite` | new |")
        )
    assert len(api.bodies()) == 1
    (whole,) = forge.comments(7)
    assert [target for target in ("gpu-1", "gpu-2") if f"#### `{target}`\n" in whole.body] == ["gpu-1", "gpu-2"]
    deliver(forge, CommentSection(7, "gpu-1", ""))
    (whole,) = forge.comments(7)
    assert "`gpu-1`" not in whole.body


def test_comment_that_is_gone_is_terminal(connect: Connect) -> None:
    _, forge = connect()
    forge.add_comment(7, "plan")
    (ours,) = forge.comments(7)
    with pytest.raises(Terminal):
        forge.edit_comment(7, ours.id.replace("1", "99"), "plan")


def test_doctor_finds_a_token_that_may_all(connect: Connect) -> None:
    _, forge = connect()
    assert {one.level for one in forge.check()} == {Level.OK}


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (203, "check the token"),
        (401, "check the token"),
        (404, "forge.repository"),
        (503, "trying again later"),
    ],
)
def test_doctor_names_what_keeps_it_out(connect: Connect, status: int, says: str) -> None:
    api, forge = connect()
    api.refused = {"repository": status}
    (finding,) = forge.check()
    assert (finding.level, says in finding.fix) == (Level.PROBLEM, True)


@pytest.mark.parametrize("what", ["status", "comment"])
def test_doctor_says_which_right_is_missing(connect: Connect, what: str) -> None:
    api, forge = connect()
    api.refuse(what)
    (missing,) = (one for one in forge.check() if one.level != Level.OK)
    assert missing.level == Level.PROBLEM
    assert "create" in missing.fix


@pytest.mark.parametrize(
    ("kind", "token", "login"),
    [
        ("bitbucket", "ATCTT3", "Bearer ATCTT3"),
        ("bitbucket", "ada@example.com:ATATT3", f"Basic {b64encode(b'ada@example.com:ATATT3').decode()}"),
        ("bitbucket-server", "BBDC-x", "Bearer BBDC-x"),
        ("azure-devops", "azdpat", f"Basic {b64encode(b':azdpat').decode()}"),
    ],
)
def test_config_leads_to_the_api_with_its_login(
    server: LocalForge, tmp_path: Path, kind: str, token: str, login: str
) -> None:
    case, api = CASES[kind], CASES[kind].api()
    server.answer, server.asked[:] = api, []
    forge = github_parts.provider(server, tmp_path, kind=kind, repository=case.repository)
    (tmp_path / "token").write_text(token)
    forge.set_status(_status(CommitState.SUCCESS))
    assert api.violations == []
    assert list(api.shown) == [(NEW, case.shown_as)]
    assert server.asked[0].headers["authorization"] == login


def test_login_that_is_refused_is_retried_with_another(connect: Connect, server: LocalForge) -> None:
    _, forge = connect()
    server.answer = lambda asked: Reply(203, b"<html>sign in</html>")
    with pytest.raises(LoginRefused):
        forge.pull_requests("main")


def test_abbreviated_revision_is_asked_for_once(server: LocalForge) -> None:
    api = BitbucketCloudApi()
    server.answer, server.asked[:] = api, []
    forge = BitbucketCloud(server.http("/2.0"), "models/serving")
    for number in (1, 2):
        api.add_pull_request(number, NEW, "main", is_fork=False)
    api.add_pull_request(3, OLD, "main", is_fork=True)
    api.pull_requests[-1]["is_lost"] = True
    for _ in range(2):
        assert [one.number for one in forge.pull_requests("main")] == [1, 2]
    asked = [asked.path.rpartition("/")[2] for asked in server.asked if "/commit/" in asked.path]
    assert sorted(asked) == sorted([NEW[:12], OLD[:12]])


def test_edit_that_another_overtook_is_tried_again(server: LocalForge) -> None:
    api = BitbucketServerApi()
    server.answer = api
    forge = BitbucketServer(server.http("/rest"), "models/serving")
    api.add_comment("plan", is_ours=True)
    api.is_overtaken = True
    with pytest.raises(ForgeAway):
        forge.edit_comment(7, "1", "other")
    assert api.bodies() == ["plan"]
