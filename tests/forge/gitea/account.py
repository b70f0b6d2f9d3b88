"""Users of a Gitea, their tokens, and their repositories."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.forge.gitea.server import PASSWORD, Gitea, basic
from tests.support.signing import make_ssh_key

Document = dict[str, Any]
_NUMBERS = itertools.count(1)
ALL = ("all",)
REPORTING = ("write:repository", "write:issue", "read:user")
"""What our daemon's token may do: statuses, comments, and say whose it is."""


@dataclass(frozen=True)
class Account:
    """One user, who knows the password."""

    gitea: Gitea
    name: str
    token: str
    """May do everything that the user may."""

    @classmethod
    def create(cls, gitea: Gitea) -> Account:
        name = f"user-{next(_NUMBERS)}"
        body = {"username": name, "password": PASSWORD, "email": f"{name}@example.invalid"}
        gitea.as_admin("POST", "/admin/users", body | {"must_change_password": False})
        return cls(gitea, name, _new_token(gitea, name, ALL))

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """`path` follows `/api/v1`. Raises Refused."""
        return self.gitea.ask(method, path, body, headers={"Authorization": f"token {self.token}"})

    def new_token(self, scopes: Sequence[str] = REPORTING) -> str:
        return _new_token(self.gitea, self.name, scopes)

    def revoke(self, token: str) -> None:
        path, login = f"/users/{self.name}/tokens", basic(self.name, PASSWORD)
        (found,) = (
            each for each in self.gitea.ask("GET", path, headers=login) if each["token_last_eight"] == token[-8:]
        )
        self.gitea.ask("DELETE", f"{path}/{found['id']}", headers=login)

    def add_ssh_key(self, folder: Path) -> Path:
        """The private key of a new pair whose public key may push."""
        key = folder / "id_ed25519"
        self.ask("POST", "/user/keys", {"title": f"key-{next(_NUMBERS)}", "key": make_ssh_key(key)})
        return key

    def new_repository(self, name: str = "models") -> ForgeRepository:
        """An empty one."""
        self.ask("POST", "/user/repos", {"name": name, "default_branch": "main"})
        return ForgeRepository(self, name)


def _new_token(gitea: Gitea, user: str, scopes: Sequence[str]) -> str:
    body = {"name": f"token-{next(_NUMBERS)}", "scopes": list(scopes)}
    made: str = gitea.ask("POST", f"/users/{user}/tokens", body, headers=basic(user, PASSWORD))["sha1"]
    return made


@dataclass(frozen=True)
class ForgeRepository:
    """One repository, as its owner sees it."""

    owner: Account
    name: str

    @property
    def path(self) -> str:
        return f"{self.owner.name}/{self.name}"

    @property
    def url(self) -> str:
        """Without a login."""
        return f"{self.owner.gitea.url}/{self.path}.git"

    @property
    def push_url(self) -> str:
        return self.url.replace("https://", f"https://{self.owner.name}:{self.owner.token}@")

    @property
    def ssh_url(self) -> str:
        return f"ssh://git@127.0.0.1:{self.owner.gitea.ssh_port}/{self.path}.git"

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """`path` follows the repository's. Raises Refused."""
        return self.owner.ask(method, f"/repos/{self.path}{path}", body)

    def statuses(self, revision: str) -> list[Document]:
        """All that were posted, oldest first, with `context`, `status`, `description` and `target_url`."""
        found: list[Document] = []
        for page in itertools.count(1):
            more = self.ask("GET", f"/commits/{revision}/statuses?limit=50&page={page}")
            found += more
            if len(more) < 50:
                return sorted(found, key=lambda each: int(each["id"]))
        raise AssertionError

    def status(self, revision: str, context: str) -> Document:
        """The latest one of a context; empty: none was posted."""
        posted = [each for each in self.statuses(revision) if each["context"] == context]
        return posted[-1] if posted else {}

    def add_webhook(self, url: str, secret: str) -> None:
        config = {"url": url, "content_type": "json", "secret": secret}
        events = ["push", "pull_request", "pull_request_sync"]
        self.ask("POST", "/hooks", {"type": "gitea", "active": True, "events": events, "config": config})

    def open_pull_request(self, branch: str, title: str = "Change models") -> int:
        """Its number."""
        return int(self.ask("POST", "/pulls", {"head": branch, "base": "main", "title": title})["number"])

    def comments(self, number: int) -> list[Document]:
        """Oldest first, with `id`, `body`, `created_at` and `updated_at`."""
        found: list[Document] = self.ask("GET", f"/issues/{number}/comments")
        return found
