"""The provider for Gitea and Forgejo, against a real Gitea."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

import reconciler.forge.gitea as provider
from reconciler.errors import Terminal
from reconciler.forge.comments import deliver, merge
from reconciler.forge.gitea import Gitea, superseded_in
from reconciler.forge.http import Http, LoginRefused
from reconciler.forge.messages import Comment, CommentSection, CommitState, CommitStatus
from reconciler.report.findings import Level
from tests.forge.gitea import server
from tests.forge.gitea.account import REPORTING, Account, ForgeRepository
from tests.support.git_repository import Repository

needs_gitea = pytest.mark.forge
CONTEXT = "reconciler/gpu-1"


def _provider(repository: ForgeRepository, token: str) -> Gitea:
    gitea = repository.owner.gitea
    login = {"Authorization": f"Bearer {token}"}
    return Gitea(Http(f"{gitea.url}/api/v1", lambda: login, called="Gitea", ca_file=gitea.ca_file), repository.path)


@pytest.fixture(scope="module")
def repository(gitea: server.Gitea) -> ForgeRepository:
    return Account.create(gitea).new_repository()


@pytest.fixture(scope="module")
def clone(repository: ForgeRepository, tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """With `main` pushed."""
    clone = Repository(tmp_path_factory.mktemp("clones") / "clone")
    clone.git("config", "http.sslCAInfo", str(repository.owner.gitea.ca_file))
    clone.commit("Begin")
    clone.git("push", "--quiet", repository.push_url, "main")
    return clone


@pytest.fixture(scope="module")
def ours(repository: ForgeRepository, clone: Repository) -> Gitea:
    """With a token that may do what our daemon does, and no more."""
    return _provider(repository, repository.owner.new_token(REPORTING))


@pytest.fixture(scope="module")
def stranger(gitea: server.Gitea) -> Account:
    """Who may only read the repository."""
    return Account.create(gitea)


def _status(revision: str, state: CommitState, url: str = "") -> CommitStatus:
    return CommitStatus(revision, CONTEXT, state, "2 updated, 1 rejected: granite: unknown argument", url)


@needs_gitea
@pytest.mark.parametrize("state", list(CommitState))
def test_status_is_read_back(ours: Gitea, repository: ForgeRepository, clone: Repository, state: CommitState) -> None:
    revision = clone.git("rev-parse", "main")
    status = _status(revision, state, "https://gpu-1.example.com/")
    ours.set_status(status)
    ours.set_status(status)
    found = repository.status(revision, CONTEXT)
    word = "skipped" if state == CommitState.SUPERSEDED else state.value
    assert (found["status"], found["description"]) == (word, status.description)
    assert found["target_url"] == "https://gpu-1.example.com/"


@needs_gitea
def test_newest_status_of_a_context_stands(ours: Gitea, clone: Repository) -> None:
    revision = clone.git("rev-parse", "main")
    fleet = CommitStatus(revision, "reconciler/fleet", CommitState.FAILURE, "gpu-1: 1 rejected")
    assert ours.standing(revision, fleet.context) is None
    ours.set_status(fleet)
    ours.set_status(_status(revision, CommitState.SUCCESS))
    assert ours.standing(revision, fleet.context) == fleet
    ours.set_status(replace(fleet, state=CommitState.SUCCESS))
    assert ours.standing(revision, fleet.context) == replace(fleet, state=CommitState.SUCCESS)


@needs_gitea
def test_superseded_revision_counts_as_no_failure(ours: Gitea, repository: ForgeRepository, clone: Repository) -> None:
    revision = clone.git("rev-parse", "main")
    ours.set_status(_status(revision, CommitState.FAILURE))
    ours.set_status(_status(revision, CommitState.SUPERSEDED))
    assert repository.ask("GET", f"/commits/{revision}/status")["state"] == "success"


@pytest.mark.parametrize(
    ("version", "state"),
    [
        ("1.26.0", "skipped"),
        ("1.25.0+dev-12-gabc", "skipped"),
        ("1.24.7", "warning"),
        ("11.0.1+gitea-1.22.0", "warning"),
        ("", "warning"),
    ],
)
def test_superseded_is_a_state_that_the_version_knows(version: str, state: str) -> None:
    assert superseded_in(version) == state


@needs_gitea
def test_commit_that_gitea_does_not_have_is_terminal(ours: Gitea) -> None:
    with pytest.raises(Terminal, match="it has no commit dddd"):
        ours.set_status(_status("d" * 40, CommitState.PENDING))


def _push_branch(clone: Repository, url: str, branch: str, *options: str) -> str:
    """A new commit on top of main; its revision."""
    clone.git("checkout", "--quiet", "--detach", "main")
    revision = clone.commit(f"Change {branch}")
    clone.git("push", "--quiet", *options, url, f"+HEAD:{branch}")
    clone.git("checkout", "--quiet", "main")
    return revision


def _push_url(repository: ForgeRepository, account: Account) -> str:
    return repository.url.replace("https://", f"https://{account.name}:{account.token}@")


@needs_gitea
def test_only_branches_of_the_repository_itself_are_trusted(
    ours: Gitea, repository: ForgeRepository, clone: Repository, stranger: Account
) -> None:
    """A stranger's may come from a fork, or by a push to `refs/for`, even under the name of a branch that exists."""
    own = _push_branch(clone, repository.push_url, "refs/heads/feature")
    number = repository.open_pull_request("feature", "Add granite")
    _push_branch(clone, repository.push_url, "refs/heads/next")
    repository.ask("POST", "/pulls", {"head": "feature", "base": "next", "title": "Elsewhere"})
    fork = ForgeRepository(stranger, repository.name)
    stranger.ask("POST", f"/repos/{repository.path}/forks", {})
    forked = _push_branch(clone, fork.push_url, "refs/heads/feature")
    body = {"head": f"{stranger.name}:feature", "base": "main", "title": "From a fork"}
    stranger.ask("POST", f"/repos/{repository.path}/pulls", body)
    topics = ["feature", "unknown"]
    pushed = [
        _push_branch(clone, _push_url(repository, stranger), "refs/for/main", "-o", f"topic={topic}")
        for topic in topics
    ]

    found = ours.pull_requests("main")
    assert {(one.head, one.is_trusted) for one in found} == {
        (own, True),
        (forked, False),
        *((head, False) for head in pushed),
    }
    (trusted,) = (one for one in found if one.is_trusted)
    assert (trusted.number, trusted.base, trusted.title) == (number, "main", "Add granite")
    assert trusted.url == f"{repository.owner.gitea.url}/{repository.path}/pulls/{number}"
    assert ours.pull_requests("no-such-branch") == ()


@needs_gitea
def test_pull_requests_are_found_page_by_page_newest_first(
    account: Account, clone: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = account.new_repository("pages")
    branches = ["one", "two", "three"]
    clone.git("push", "--quiet", repository.push_url, "main")
    for branch in branches:
        _push_branch(clone, repository.push_url, f"refs/heads/{branch}")
    numbers = [repository.open_pull_request(branch) for branch in branches]
    monkeypatch.setattr(provider, "_PAGE", "1")
    found = _provider(repository, account.token).pull_requests("main")
    assert sorted(one.number for one in found) == numbers


@needs_gitea
def test_comments_are_added_edited_and_told_from_strangers(
    ours: Gitea, repository: ForgeRepository, clone: Repository, stranger: Account
) -> None:
    _push_branch(clone, repository.push_url, "refs/heads/commented")
    number = repository.open_pull_request("commented")
    stranger.ask("POST", f"/repos/{repository.path}/issues/{number}/comments", {"body": "looks good"})
    body = "<!-- reconciler: plan -->\n### Plan\n\n| a | b |\n|---|---|\n| `x` | 1 |"
    ours.add_comment(number, body)
    theirs, mine = ours.comments(number)
    assert theirs == Comment(theirs.id, "looks good", False)
    assert mine == Comment(mine.id, body, True)

    for _ in range(2):
        ours.edit_comment(number, mine.id, f"{body}\n| `y` | 2 |")
    assert [(one.id, one.body) for one in ours.comments(number)][1:] == [(mine.id, f"{body}\n| `y` | 2 |")]


@needs_gitea
def test_copy_of_our_mark_is_not_written_into(
    ours: Gitea, repository: ForgeRepository, clone: Repository, stranger: Account
) -> None:
    """Who may write to a repository may edit a stranger's comment there, and the stranger edits it afterwards."""
    _push_branch(clone, repository.push_url, "refs/heads/copied")
    number = repository.open_pull_request("copied")
    copy = merge("", CommentSection(number, "a", "all is fine"))
    stranger.ask("POST", f"/repos/{repository.path}/issues/{number}/comments", {"body": copy})
    unnamed = _provider(repository, repository.owner.new_token(["write:repository", "write:issue"]))
    with pytest.raises(LoginRefused, match="generate a token with `user: Read`"):
        deliver(unnamed, CommentSection(number, "a", "it restarts"))
    deliver(ours, CommentSection(number, "a", "it restarts"))
    theirs, mine = repository.comments(number)
    assert theirs["body"] == copy
    assert "it restarts" in mine["body"]


@needs_gitea
def test_section_that_stands_already_edits_nothing(ours: Gitea, repository: ForgeRepository, clone: Repository) -> None:
    _push_branch(clone, repository.push_url, "refs/heads/planned")
    number = repository.open_pull_request("planned")
    sections = [CommentSection(number, target, f"#### `{target}`\n\n| a |\n|---|\n| b<br>c |") for target in ("a", "b")]
    for section in sections:
        deliver(ours, section)
    before = repository.comments(number)
    for section in sections:
        deliver(ours, section)
    assert repository.comments(number) == before
    assert len(before) == 1


@needs_gitea
def test_comment_that_is_gone_is_terminal(ours: Gitea) -> None:
    with pytest.raises(Terminal):
        ours.edit_comment(1, "999999", "plan")


@needs_gitea
def test_revoked_token_is_named_as_refused(repository: ForgeRepository, clone: Repository) -> None:
    token = repository.owner.new_token(REPORTING)
    revoked = _provider(repository, token)
    repository.owner.revoke(token)
    with pytest.raises(LoginRefused, match="check the token"):
        revoked.set_status(_status(clone.git("rev-parse", "main"), CommitState.PENDING))
    (finding,) = revoked.check()
    assert finding.level == Level.PROBLEM
    assert "check the token" in finding.fix


@needs_gitea
@pytest.mark.parametrize(
    ("scopes", "levels"),
    [
        (REPORTING, [Level.OK, Level.OK, Level.OK, Level.OK]),
        (["write:repository"], [Level.OK, Level.OK, Level.PROBLEM, Level.PROBLEM]),
        (["read:repository", "write:issue", "read:user"], [Level.OK, Level.PROBLEM, Level.OK, Level.OK]),
        (["read:user"], [Level.PROBLEM]),
    ],
)
def test_doctor_says_which_scope_is_missing(
    repository: ForgeRepository, clone: Repository, scopes: Sequence[str], levels: list[Level]
) -> None:
    before = repository.statuses(clone.git("rev-parse", "main"))
    found = _provider(repository, repository.owner.new_token(scopes)).check()
    assert [one.level for one in found] == levels
    assert all(("scope" in one.message, "Read" in one.fix) == (True, True) for one in found[1:] if one.fix)
    assert repository.statuses(clone.git("rev-parse", "main")) == before


@needs_gitea
def test_doctor_finds_a_user_who_may_not_write(
    repository: ForgeRepository, clone: Repository, stranger: Account
) -> None:
    levels = [one.level for one in _provider(repository, stranger.token).check()]
    assert levels[:2] == [Level.OK, Level.PROBLEM]


@needs_gitea
def test_doctor_names_a_repository_that_is_not_there(account: Account) -> None:
    (finding,) = _provider(ForgeRepository(account, "nothing"), account.token).check()
    assert (finding.level, "forge.repository" in finding.fix) == (Level.PROBLEM, True)
