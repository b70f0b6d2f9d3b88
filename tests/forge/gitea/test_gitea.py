"""The forge of the tests is one: pushes, tokens, statuses, pull requests; and it comes back after a kill."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.forge.gitea.account import Account, ForgeRepository
from tests.forge.gitea.server import Gitea, Refused
from tests.support.git_repository import Repository

pytestmark = pytest.mark.forge


def clone_of(remote: ForgeRepository, folder: Path) -> Repository:
    """A working folder with one commit, whose origin is the forge."""
    clone = Repository(folder)
    clone.git("config", "http.sslCAInfo", str(remote.owner.gitea.ca_file))
    clone.git("remote", "add", "origin", remote.push_url)
    clone.write("one.yaml")
    clone.commit("Begin")
    return clone


def test_statuses_of_a_pushed_commit_are_read_back(forge_repository: ForgeRepository, tmp_path: Path) -> None:
    clone = clone_of(forge_repository, tmp_path / "clone")
    clone.git("push", "--quiet", "origin", "main")
    revision = clone.git("rev-parse", "HEAD")
    for state in ("pending", "success"):
        body = {"state": state, "context": "tests", "description": state}
        forge_repository.ask("POST", f"/statuses/{revision}", body)

    assert [each["status"] for each in forge_repository.statuses(revision)] == ["pending", "success"]
    assert forge_repository.status(revision, "tests")["description"] == "success"


def test_push_over_ssh_arrives(forge_repository: ForgeRepository, tmp_path: Path) -> None:
    clone = clone_of(forge_repository, tmp_path / "clone")
    key = forge_repository.owner.add_ssh_key(tmp_path)
    hosts = forge_repository.owner.gitea.known_hosts
    clone.git("config", "core.sshCommand", f"ssh -F none -i {key} -o UserKnownHostsFile={hosts}")
    clone.git("push", "--quiet", forge_repository.ssh_url, "main")

    assert forge_repository.ask("GET", f"/git/commits/{clone.git('rev-parse', 'HEAD')}")


def test_revoked_token_is_refused_and_others_are_not(account: Account) -> None:
    token = account.new_token()
    login = {"Authorization": f"token {token}"}
    assert account.gitea.ask("GET", "/user", headers=login)["login"] == account.name
    account.revoke(token)

    with pytest.raises(Refused, match="401"):
        account.gitea.ask("GET", "/user", headers=login)
    assert account.ask("GET", "/user")["login"] == account.name


def test_killed_gitea_comes_back_with_what_it_had(gitea: Gitea, forge_repository: ForgeRepository) -> None:
    gitea.stop(signal.SIGKILL)
    gitea.start()

    assert forge_repository.ask("GET", "")["empty"]
